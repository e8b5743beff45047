"""Trajectories of published optimizers, replayed through gradtx.

``golden`` reads the files, ``steppers`` turns chains into things that can be replayed, ``systems``
knows which system a file belongs to, ``replay`` runs and compares. A family of systems is one more
module here: it may define ``SYSTEMS`` (name -> ``(meta, extra) -> stepper``), ``PEERS`` (the same
for files of the folder ``peers``, by the name of the optimizer), ``CONFORMANCE`` (name ->
arrays of a file without steps -> ``[(name, got, want)]``), and ``CASES`` (name -> such a file ->
``[(name, got, want, relative tolerance)]``). ``python -m tests.goldens PATH...``
replays files or folders.
"""
