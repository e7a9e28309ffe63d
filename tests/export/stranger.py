"""Loads exported folders as one who never heard of megadape; run by a test in a process of its own.

Arguments: a folder of exported folders, and a safetensors file with what they should give. Prints a JSON object a line.
"""

import json
import sys
from pathlib import Path


class NoMegadape:
    def find_spec(self, name, path=None, target=None):  # noqa: ANN001, ANN201
        if name.partition(".")[0] == "megadape":
            raise ImportError("megadape is not here")


sys.meta_path.insert(0, NoMegadape())

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: E402

torch.set_num_threads(1)


@torch.no_grad()
def read(folder, wanted):  # noqa: ANN001, ANN201
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    tokens, prompts = wanted["tokens"], wanted["prompts"]
    logits = model(tokens[None]).logits[0]
    step = model(tokens[None, :-1], use_cache=True)
    cache = getattr(step, "cache", None) or step.past_key_values
    last = model(tokens[None, -1:], past_key_values=cache).logits[0, -1]
    written = model.generate(
        prompts, attention_mask=wanted["mask"], max_new_tokens=6, do_sample=False, eos_token_id=None
    )
    return {
        "name": Path(folder).name,
        "difference": float((logits - wanted["logits"]).abs().max()),
        "cached": float((last - wanted["logits"][-1]).abs().max()),
        "written": bool(torch.equal(written[:, prompts.shape[1] :], wanted["written"])),
        "max": config.max_position_embeddings,
    }


def say(what):  # noqa: ANN001, ANN201
    print(json.dumps(what), flush=True)  # noqa: T201


if __name__ == "__main__":
    everything = load_file(sys.argv[2])
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        wanted = {key.partition("/")[2]: x for key, x in everything.items() if key.startswith(f"{folder.name}/")}
        say(read(str(folder), wanted))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    say({"name": "tokenizer", "ids": tokenizer("é <|endoftext|>")["input_ids"]})
    try:
        import megadape  # noqa: F401
    except ImportError as error:
        say({"name": "megadape", "error": str(error)})
