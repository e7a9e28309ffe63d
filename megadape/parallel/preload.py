"""Imported once by the server process from which test ranks are forked: what takes seconds to import."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

import torch._dynamo  # noqa: E402
import torch._functorch.aot_autograd  # noqa: E402
import torch._inductor.config  # noqa: E402
import torch.distributed.pipelining  # noqa: E402
import torch.distributed.tensor  # noqa: E402

try:
    import deepspeed.module_inject.auto_ep_layer
    import deepspeed.ops.op_builder.all_ops
    import deepspeed.runtime.pipe.engine
    import deepspeed.runtime.zero.muon.muon_optimizer  # with torch's compiler: seconds of every DeepSpeed engine
    import deepspeed.runtime.zero.stage3
    import deepspeed.runtime.zero.stage_1_and_2  # noqa: F401
except ImportError:  # not on this system: only the DeepSpeed engine needs it
    pass
