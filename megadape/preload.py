"""Imported once by the server process from which test ranks are forked: what each would take seconds to import."""

import atexit
import gc
import os
from contextlib import suppress
from importlib import import_module

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

HERE = ("megadape.training.loop", "megadape.training.pipeline.deepspeed_pipeline")
THERE = (
    "torch._dynamo",
    "torch._functorch.aot_autograd",
    "torch._inductor.config",
    "torch.distributed.pipelining",
    "torch.distributed.tensor",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.pipe.engine",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # with torch's compiler: seconds of every DeepSpeed engine
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
    "hypothesis",
    "pytest",
)
for name in HERE:
    import_module(name)
for name in THERE:
    # DeepSpeed is not on every system, or is broken, and tests need not be pytest's: whoever needs it will be told
    with suppress(Exception):
        import_module(name)

# a rank's collector would write into what all of this has made, and so copy it
gc.freeze()
atexit.register(gc.unfreeze)
