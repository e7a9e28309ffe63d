"""What people get wrong with each command, and what each command's main path is tested by.

``WORST``: words, and what the message must name. They are typed in the folder that ``make_house`` builds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

HUGE = str(10**30)
TRAIN = "train good.yaml --set run_dir=new"
PREPROCESS = "preprocess --output-prefix new --tokenizer-type byte --input"
TOKENIZER = "preprocess --input ok.jsonl --output-prefix new --tokenizer-type"
PLAN = "plan good.yaml --nodes 1 --gpus-per-node 1"
SITE = "--cluster site.yaml"

WORST: dict[str, list[tuple[str, str]]] = {
    "demo": [
        ("demo --text nowhere", "the text nowhere does not exist"),
        ("demo --text emptydir", "emptydir gives no file to read"),
        ("demo --text latin.txt", "latin.txt holds no text"),
        ("demo --text ok.jsonl --tokenizer bite", "byte, sentencepiece"),
        ("demo --text ok.jsonl --seed -1", "--seed"),
        ("demo --text ok.jsonl --out file", "file"),
    ],
    "preprocess": [
        ("preprocess --input ok.jsonl", "--output-prefix"),
        (f"{PREPROCESS} nowhere", "there is no nowhere"),
        (f"{PREPROCESS} ''", "an input is empty"),
        (f"{PREPROCESS} '*.nope'", "no file matches *.nope"),
        (f"{PREPROCESS} file", "file has no known format"),
        (f"{PREPROCESS} latin.txt", "latin.txt, line 1: byte 0xe9"),
        (f"{PREPROCESS} bad.jsonl", "bad.jsonl, line 1"),
        (f"{PREPROCESS} deep.jsonl", "deep.jsonl, line 1"),
        (f"{PREPROCESS} cut.jsonl.gz", "cut.jsonl.gz"),
        (f"{PREPROCESS} cut.jsonl.zst", "cut.jsonl.zst"),
        (f"{PREPROCESS} hf:", "hf:NAME"),
        (f"{PREPROCESS} ok.jsonl --json-keys nope", "'nope'"),
        (f"{PREPROCESS} ok.jsonl --where =", "KEY=VALUE"),
        (f"{PREPROCESS} ok.jsonl --on-bad-line ignore", "ignore"),
        (f"{PREPROCESS} ok.jsonl --max-line-bytes {HUGE}", "max_line_bytes"),
        (f"{PREPROCESS} ok.jsonl --part 3/2", "part 3 of 2"),
        (f"{PREPROCESS} ok.jsonl --part 1/2 --merge-parts 2", "one of the two"),
        (f"{PREPROCESS} ok.jsonl --workers 0", "--workers"),
        ("preprocess --input ok.jsonl --output-prefix file/x --tokenizer-type byte", "file/"),
        ("preprocess --input ok.jsonl --output-prefix '' --tokenizer-type byte", "names no dataset"),
        (f"{TOKENIZER} bite", "byte, sentencepiece"),
        (f"{TOKENIZER} sentencepiece --tokenizer-model empty", "empty is empty"),
        (f"{TOKENIZER} sentencepiece --tokenizer-model binary", "binary is not a SentencePiece model"),
        (f"{TOKENIZER} huggingface --tokenizer-model deep.jsonl", "deep.jsonl is not a tokenizer.json"),
        (f"{TOKENIZER} gpt2 --vocab-file deep.jsonl --merge-file file", "deep.jsonl is not a vocab.json"),
        (f"{TOKENIZER} byte --eod-token x", "eod_token"),
    ],
    "train": [
        ("train", "files"),
        ("train nowhere.yaml", "nowhere.yaml: there is no such settings file"),
        ("train emptydir", "emptydir: is a folder"),
        (f"{TRAIN} --stop-after -5s", "'-5s' is no length of time"),
        (f"{TRAIN} --stop-after-steps 0", "--stop-after-steps"),
        ("train good.yaml --set run_dir=file/x", "file/x"),
        (f"{TRAIN} --set data.prefix=nowhere", "nowhere.idx"),
        (f"{TRAIN} --set data.prefix=bad/cut_bin", "bad/cut_bin.bin"),
        (f"{TRAIN} --set data.prefix=bad/cut_idx", "bad/cut_idx.idx"),
        (f"{TRAIN} --set data.prefix=bad/deep_json", "bad/deep_json.json"),
        (f"{TRAIN} --set model.vocab_size=100", "257 tokens"),
        (f"{TRAIN} --set model.hidden_size={HUGE}", "model.hidden_size"),
        (f"{TRAIN} --set training.steps={10**18}", "not enough memory"),
        (f"{TRAIN} --set positions.kind=rop", "did you mean rope"),
        (f"{TRAIN} --set training.optimizer.learning_rate=.nan", "learning_rate"),
    ],
    "generate": [
        ("generate nowhere x", "nowhere does not exist"),
        ("generate flipped x", "flipped has no valid checkpoint"),
        ("generate trained", "standard input has no prompts"),
        ("generate trained --prompts nowhere", "nowhere"),
        ("generate trained --prompts binary", "binary, line 2: not UTF-8"),
        ("generate trained --prompts deep.jsonl", "deep.jsonl, line 1"),
        ("generate trained x --prompts ok.jsonl", "in one place"),
        ("generate trained x --temperature nan", "temperature"),
        ("generate trained x --top-p 1.5", "top_p"),
        (f"generate trained x --seed {HUGE}", "seed"),
        (f"generate trained x --read-as {HUGE}", "read_as"),
        ("generate trained x --greedy --temperature 1", "choose one"),
        ("generate trained x --data bad/deep_json", "bad/deep_json.json"),
        ("generate trained x --out emptydir", "emptydir cannot be written"),
        ("generate trained x --out ''", "cannot be written"),
        ("generate trained x --out file/x/y.jsonl", "file/x/y.jsonl cannot be written"),
        ("generate trained --prompts empty --out new/texts.jsonl", "empty has no prompts"),
    ],
    "export": [
        ("export nowhere out", "nowhere is no run folder"),
        ("export flipped out", "flipped has no valid checkpoint"),
        ("export trained file", "file is there and is no folder"),
        ("export trained emptydir/../trained", "choose another folder"),
        ("export trained data --overwrite", "data/text"),
        ("export trained out --to onnx", "--to"),
        ("export trained out --step 7", "no checkpoint of step 7"),
        ("export trained out --license ''", "--license"),
        *((f"export trained out --max-shard-size {size}", "--max-shard-size") for size in ("x", "0", "-5GB")),
    ],
    "import": [
        ("import nowhere out", "nowhere does not exist"),
        ("import emptydir out", "emptydir has no megadape.json"),
        ("import exported out", "exported/megadape.json is damaged"),
        ("import emptydir trained", "trained is not empty"),
        ("import emptydir file", "file is there and is no folder"),
    ],
    "plan": [
        ("plan good.yaml", "--nodes"),
        ("plan list.yaml --nodes 1 --gpus-per-node 1", "list.yaml:1"),
        (f"plan good.yaml --nodes {HUGE} --gpus-per-node 8", "at most 1,048,576"),
        *((f"{PLAN} --gpu-memory {size}", "gpu_memory") for size in ("nan", "inf", "0", "-1")),
        (f"{PLAN} --gpu-flops nan", "flops"),
        (f"{PLAN} --ranks 5 --build", "--ranks: 5"),
        (f"{PLAN} --json file/x", "file/x"),
        (f"{PLAN} --set model.num_layers={10**12}", "not enough memory"),
    ],
    "doctor": [("doctor extra", "extra"), ("doctor --run", "--run")],
    "runs": [
        ("runs nowhere", "nowhere is no folder"),
        ("runs emptydir", "no run in emptydir"),
        ("runs trained --page emptydir", "emptydir: a page's name ends in .html"),
        ("runs trained --page file/x.html", "file/x.html cannot be written"),
    ],
    "watch": [
        ("watch nowhere --once", "no run folder nowhere"),
        ("watch emptydir --once", "emptydir is no run's folder"),
        ("watch trained --once --every nan", "--every"),
        ("watch trained --once --page file/x.html", "file/x.html cannot be written"),
    ],
    "che run": [
        ("che run nowhere.yaml", "nowhere.yaml"),
        ("che run study.yaml", "study.yaml:3: text: unknown key"),
        ("che run che.yaml nope", "no run 'nope'"),
        ("che run che.yaml --set tasks=[parity]", "unknown task 'parity'"),
        (f"che run che.yaml --set seeds=[{HUGE}]", "--set seeds[0]"),
        ("che run che.yaml --at-once 0", "--at-once"),
    ],
    "che status": [("che status list.yaml", "list.yaml:1"), ("che status che.yaml --set x", "--set x")],
    "che report": [("che report che.yaml", "no finished experiment yet"), ("che report nul.yaml", "U+0000")],
    "che tasks": [(f"che tasks --length {HUGE}", "--length"), (f"che tasks --seed {HUGE}", "--seed")],
    "checkpoint inspect": [
        ("checkpoint inspect nowhere", "no checkpoint in nowhere"),
        ("checkpoint inspect unlisted", "no checkpoint in unlisted"),
        ("checkpoint inspect good.yaml", "no checkpoint in good.yaml"),
    ],
    "checkpoint verify": [("checkpoint verify emptydir", "no checkpoint in emptydir")],
    "checkpoint convert": [
        ("checkpoint convert nowhere out", "no checkpoint in nowhere"),
        ("checkpoint convert flipped out", "model-00000.safetensors is damaged"),
        ("checkpoint convert trained file/x", "file/x"),
        ("checkpoint convert trained out --trust", "--trust is for another project"),
        ("checkpoint convert trained out --map a=b", "--map is for another project"),
        ("checkpoint convert emptydir out --from gpt-neox", "model: required key is missing"),
        ("checkpoint convert emptydir out --from neox --settings good.yaml --set model.vocab_size=257", "gpt-neox"),
    ],
    "config show": [
        ("config show empty", "model: required key is missing"),
        ("config show binary", "binary:2: is not UTF-8"),
        ("config show list.yaml", "list.yaml:1"),
        ("config show tab.yaml", "tab.yaml:2:1: a tab"),
        ("config show nul.yaml", "nul.yaml:1:5: holds the character U+0000"),
        ("config show twice.yaml", "twice.yaml:2: seed: the key is given twice"),
        ("config show nested.yaml", "nested too deeply"),
        ("config show laughs.yaml", "expand to more than"),
        ("config show object.yaml", "python/object"),
        ("config show /dev/zero", "/dev/zero: has more than"),
        (f"config show good.yaml --set seed={HUGE}", "seed: the number is beyond"),
        ("config show good.yaml --set =1", "--set =1"),
        ("config show good.yaml --set a..b=1", "no key path"),
    ],
    "config validate": [
        ("config validate good.yaml --set data.split=nan,1", "data.split"),
        ("config validate good.yaml --set model=3", "--set model"),
    ],
    "config diff": [("config diff good.yaml emptydir", "emptydir/settings.yaml"), ("config diff good.yaml", "second")],
    "config schema": [("config schema extra", "extra"), ("config schema --nope", "--nope")],
    "data inspect": [
        ("data inspect nowhere", "no nowhere.idx"),
        ("data inspect ''", "names no dataset"),
        ("data inspect bad/cut_bin", "bad/cut_bin.bin"),
        ("data inspect data/text --document 99", "no document 99"),
        ("data inspect data/text --decode", "--document N"),
        ("data inspect data/text --document 0 --sources", "one of the two"),
    ],
    "data validate": [
        ("data validate bad/cut_idx", "bad/cut_idx.idx"),
        ("data validate bad/deep_json", "bad/deep_json.json"),
        ("data validate bad/flip_bin --deep", "bad/flip_bin.bin"),
    ],
    "data merge": [
        ("data merge data/text --output-prefix data/text", "would be written over"),
        ("data merge data/text bad/deep_json --output-prefix new", "bad/deep_json.json"),
        ("data merge data/text --output-prefix file/new", "the folder file"),
    ],
    "data split": [
        ("data split data/text --shares nan,1", "'nan,1' is malformed"),
        ("data split data/text --shares 90,10 --by random", "range, hash"),
        ("data split bad/cut_idx --shares 90,10", "cut_idx.idx"),
    ],
    "data shuffle": [
        (f"data shuffle data/text --output-prefix new --seed {HUGE}", "cannot be a seed"),
        ("data shuffle data/text --output-prefix data/text --seed 1", "would be written over"),
    ],
    "data stats": [
        ("data stats bad/cut_idx", "cut_idx.idx"),
        ("data stats data/text --figure ''", ".png, .svg, .pdf"),
        ("data stats data/text --figure file/x.png", "file/x.png cannot be written"),
    ],
    "evaluate run": [
        ("evaluate nowhere", "nowhere is no run folder"),
        ("evaluate flipped", "flipped has no valid checkpoint"),
        ("evaluate trained --lengths 16,x", "--lengths"),
        (f"evaluate trained --lengths {HUGE}", "leave out the longest"),
        ("evaluate trained --mode sliding", "fixed_target"),
        ("evaluate trained --split test", "give --data PREFIX"),
        ("evaluate trained --data bad/deep_json", "bad/deep_json.json"),
        ("evaluate -- --x", "--x is no run folder"),
    ],
    "evaluate heads": [
        ("evaluate heads trained --length 16 --layer 7", "layer 7"),
        ("evaluate heads trained --length 16 --query 100", "query 100"),
        (f"evaluate heads trained --length {HUGE}", "--length"),
    ],
    "slurm render": [
        ("slurm render good.yaml", "--cluster"),
        ("slurm render good.yaml --cluster good.yaml", "unknown key"),
        (f"slurm render good.yaml {SITE} --site nodes=0", "--site nodes"),
        (f"slurm render good.yaml {SITE} --site lead=99h", "lead"),
    ],
    "slurm script": [(f"slurm script ../x {SITE}", "'../x'")],
    "slurm submit": [
        ("slurm submit good.yaml --cluster nowhere.yaml", "nowhere.yaml"),
        (f"slurm submit good.yaml {SITE} --chain -1", "--chain"),
    ],
    "slurm check": [
        (f"slurm check {SITE} --folder file", "file cannot be made"),
        (f"slurm check {SITE} --folder . --seconds nan", "--seconds"),
    ],
    "slurm hosts": [("slurm hosts 'a['", "'a[' is no list"), ("slurm hosts 'a[1-1000000000000]'", "65,536")],
    "slurm begin": [("slurm begin nowhere.yaml", "nowhere.yaml"), ("slurm begin good.yaml", "SLURM_JOB_ID")],
    "slurm verdict": [
        ("slurm verdict trained --stop-file x --status 1 --max-restarts 1 --max-stalls 1", "SLURM_JOB_ID"),
    ],
    "slurm probe": [("slurm probe emptydir --gpus x --seconds 1", "--gpus")],
    "study run": [
        ("study run nowhere.yaml", "nowhere.yaml"),
        ("study run good.yaml", "unknown key"),
        ("study run study.yaml nope", "no run 'nope'"),
        ("study run study.yaml --set seeds=[1,1]", "twice"),
        ("study run study.yaml --set reference=nope", "'nope'"),
        ("study run study.yaml --set folder=file/x", "file/x"),
        ("study run study.yaml --set text.source=nowhere", "nowhere does not exist"),
    ],
    "study submit": [
        ("study submit study.yaml --cluster list.yaml", "list.yaml:1"),
        (f"study submit study.yaml {SITE} --site nodes=0", "--site nodes"),
    ],
    "study begin": [("study begin study.yaml --index 99", "no run 99")],
    "study status": [("study status che.yaml", "encoder: unknown key")],
    "study report": [("study report study.yaml", "no run of study.yaml is done")],
}  # fmt: skip

MAIN = {
    "demo": "studies/test_demo.py::test_the_whole_demo_on_a_text_of_ones_own",
    "preprocess": "cli/test_cli.py::test_preprocessing_makes_a_dataset_and_a_short_one_is_refused",
    "train": "cli/test_cli.py::test_training_fills_the_run_folder",
    "generate": "generation/test_command.py::test_lines_of_standard_input_are_prompts",
    "export": "export/test_folders.py::test_the_commands",
    "import": "export/test_folders.py::test_the_commands",
    "plan": "plan/test_command.py::test_megadape_plan_on_350m",
    "doctor": "doctor/test_doctor.py::test_a_sound_machine_is_called_so",
    "runs": "monitoring/test_monitoring.py::test_the_list_tells_done_from_stopped",
    "watch": "monitoring/test_monitoring.py::test_a_run_that_has_ended_is_told_with_its_exit_code",
    **{f"che {name}": "studies/test_che.py::test_the_commands" for name in ("run", "status", "report", "tasks")},
    **{f"checkpoint {name}": "docs/test_tutorials.py::test_layouts" for name in ("inspect", "verify", "convert")},
    **{f"config {name}": "cli/test_cli.py::test_config_commands" for name in ("show", "validate", "diff", "schema")},
    **{
        f"data {name}": "cli/test_data_commands.py::test_the_commands_work_one_after_another"
        for name in ("inspect", "validate", "merge", "split", "shuffle", "stats")
    },
    "evaluate run": "cli/test_cli.py::test_evaluation_writes_table_figure_and_files",
    "evaluate heads": "cli/test_cli.py::test_heads_are_drawn",
    "slurm hosts": "slurm/test_hosts.py::test_without_slurm_the_command_prints_them",
    **{f"slurm {name}": "cli/test_every_command.py::test_scripts_are_printed" for name in ("render", "script")},
    "slurm submit": "slurm/test_jobs.py::test_a_submitted_run_is_the_run_that_it_would_be_here",
    "slurm check": "slurm/test_jobs.py::test_the_check_names_the_node_that_is_not_fit",
    **{f"study {name}": "docs/test_tutorials.py::test_study" for name in ("run", "status", "report")},
    "study submit": "slurm/test_jobs.py::test_a_study_goes_through_an_array_and_misses_only_what_was_killed",
}
"""Command -> the test that it works, below tests/."""


def make_house(folder: Path, corpus: Path) -> None:
    """A run, its data, and whatever can be wrong with either, in a folder that is the working directory."""
    from megadape.config import dump_yaml, load
    from megadape.testing import Silent
    from megadape.training.launch import train

    (folder / "data").mkdir()
    for ending in ("bin", "idx", "json"):
        name = f"text.{ending}"
        shutil.copy(corpus.with_name(name), folder / "data" / name)
    keys = {
        "run_dir": "trained",
        "data": "{prefix: data/text, split: '60,40'}",
        "model": "{num_layers: 1, hidden_size: 16, num_heads: 2}",
        "training": "{steps: 1, sequence_length: 16, global_batch_size: 2, micro_batch_size: 2}",
    }
    run = load([], [f"{key}={value}" for key, value in keys.items()])
    train(run, dump_yaml(run), Silent())
    _write_texts(folder, dump_yaml(run))
    checkpoint, weights = Path("checkpoints/step-00000001"), "model-00000.safetensors"
    shutil.copytree(folder / "trained", folder / "flipped")
    _change(folder / "flipped" / checkpoint / weights, _flip)
    shutil.copytree(folder / "trained", folder / "unlisted")
    (folder / "unlisted" / checkpoint / "manifest.json").unlink()
    (folder / "bad").mkdir()
    for name, ending, change in (
        ("cut_bin", "bin", lambda content: content[:-7]),
        ("cut_idx", "idx", lambda content: content[:-7]),
        ("flip_bin", "bin", _flip),
        ("deep_json", "json", lambda content: b"[" * 100_000),
    ):
        for each in ("bin", "idx", "json"):
            shutil.copy(folder / f"data/text.{each}", folder / f"bad/{name}.{each}")
        _change(folder / f"bad/{name}.{ending}", change)


def _flip(content: bytes) -> bytes:
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


def _change(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _write_texts(folder: Path, settings: str) -> None:
    laughs = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    tiny = "model: {num_layers: 1, hidden_size: 16, num_heads: 2}, training: {steps: 1, global_batch_size: 2, "
    tiny += "micro_batch_size: 2}"
    texts = {
        "good.yaml": settings,
        "list.yaml": "- a\n- b\n",
        "tab.yaml": "model:\n\tnum_layers: 1\n",
        "nul.yaml": "a: b\0c\n",
        "twice.yaml": "seed: 1\nseed: 2\n",
        "nested.yaml": f"a: {'[' * 3000}{']' * 3000}",
        "laughs.yaml": f"a0: &a0 [{', '.join('x' * 10)}]\n{laughs}",
        "object.yaml": "a: !!python/object/apply:os.system [true]\n",
        "file": "x",
        "ok.jsonl": json.dumps({"text": "hello"}) + "\n",
        "bad.jsonl": json.dumps({"text": 1}) + "\n",
        "deep.jsonl": "[" * 100_000,
        "exported/megadape.json": "[]",
        "exported/config.json": "{}",
        "site.yaml": "{nodes: 1, gpus_per_node: 0, time: 1h, lead: 2m, python: python}",
        "study.yaml": f"name: s\nfolder: out\ntext: {{tokenizer: byte}}\nbase: {{set: {{{tiny}}}}}\n"
        "methods: {rope: {set: {positions: {kind: rope}}}, alibi: {set: {positions: {kind: alibi}}}}\n"
        "training_lengths: [16]\nseeds: [1]\nreference: alibi\n",
        "che.yaml": "name: c\nfolder: out\ntasks: [even_pairs]\nmethods: {rope: {set: {positions: {kind: rope}}}}\n"
        "seeds: [1]\nencoder: {num_layers: 1, hidden_size: 16, num_heads: 2}\n",
    }
    contents = {
        "empty": b"",
        "binary": bytes(range(256)),
        "latin.txt": b"caf\xe9\n",
        "cut.jsonl.gz": bytes.fromhex("1f8b0800000000000000"),
        "cut.jsonl.zst": bytes.fromhex("28b52ffd00"),
    }
    (folder / "emptydir").mkdir()
    (folder / "exported").mkdir()
    for name, content in {**{name: text.encode() for name, text in texts.items()}, **contents}.items():
        (folder / name).write_bytes(content)
