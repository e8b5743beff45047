"""What a user's file looks like to a type checker: the lines marked with an error are wrong."""

import torch

import gradtx as gx

model = torch.nn.Linear(2, 1)
ps = list(model.parameters())

gx.optim.AdamW(ps, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=None)
gx.optim.SGD([{"params": ps, "lr": 0.1}], momentum=0.9, nesterov=True)
gx.optim.Adopt(model.named_parameters(), torch.tensor(1e-3), clip=None)
gx.optim.Muon(gx.matrix_groups(model), adjust_lr_fn="match_rms_adamw", adam_betas=(0.9, 0.95))
gx.optim.AdamAdv(ps, codec=gx.codecs.rank1(), fallback="compile")
gx.optim.LDAdamW(ps, where=lambda info: info.ndim == 2, error_codec=torch.bfloat16)
schedule_free = gx.optim.ScheduleFreeSGD(ps, momentum=0.9, train_mode=True)
schedule_free.eval()
torch.optim.lr_scheduler.StepLR(gx.optim.MicroAdam(ps, state_dtype="float32"), 1)

gx.optim.AdamW(ps, learning_rate=1e-3)  # error: call-arg
gx.optim.AdamW(ps, lr="fast")  # error: arg-type
gx.optim.Muon(ps, ns_steps=2.5)  # error: arg-type
gx.optim.AdamW(model)  # error: arg-type
