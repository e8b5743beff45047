"""What an optimizer leaves behind: measures of trained parameters.

Pure functions over trees: norms, ranks and spectra, zeros, activation outliers, curvature, paths
between solutions, forgetting, and what rounding costs. ``report`` puts them into one table.
"""

from .activations import Outliers, activation_outliers, layer_inputs
from .curvature import Trace, hessian_product, hessian_trace, sharpness
from .paths import Line, forgetting, interpolate, linear_mode_connectivity
from .picture import save_picture
from .report import report
from .table import Report
from .weights import (
    effective_ranks,
    quantization_errors,
    quantized,
    sparsity,
    spectra,
    stable_ranks,
    update_norms,
    weight_norms,
)

__all__ = [
    "Line",
    "Outliers",
    "Report",
    "Trace",
    "activation_outliers",
    "effective_ranks",
    "forgetting",
    "hessian_product",
    "hessian_trace",
    "interpolate",
    "layer_inputs",
    "linear_mode_connectivity",
    "quantization_errors",
    "quantized",
    "report",
    "save_picture",
    "sharpness",
    "sparsity",
    "spectra",
    "stable_ranks",
    "update_norms",
    "weight_norms",
]
