"""No key of DeepSpeed's configuration passes unchecked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_worlds import Case, start
from pydantic import ValidationError

from megadape.config.loading import load
from megadape.errors import ConfigurationError
from megadape.parallel.settings import ParallelSettings
from megadape.settings import Settings
from megadape.testing import run_distributed
from megadape.training.engines.deepspeed_config import engine_config
from megadape.training.engines.deepspeed_keys import OWNED, PASSED, REFUSED, SECTIONS, check_user_config
from megadape.training.settings import TrainingSettings, check_engine

KNOWN = PASSED | OWNED.keys() | REFUSED.keys()


def settings(**more: Any) -> TrainingSettings:
    keys = {"steps": 1, "sequence_length": 8, "global_batch_size": 8, "micro_batch_size": 2, "engine": "deepspeed"}
    return TrainingSettings(**(keys | more))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"steps_per_prnt": 1}, "unknown key steps_per_prnt; did you mean steps_per_print?"),
        (
            {"reduce_bucket_size": 1},
            "unknown key reduce_bucket_size; did you mean zero_optimization.reduce_bucket_size?",
        ),
        (
            {"zero_optimization": {"overlap_com": True}},
            "unknown key zero_optimization.overlap_com; did you mean zero_optimization.overlap_comm?",
        ),
        ({"comms_loger": {"enabled": True}}, "unknown key comms_loger; did you mean comms_logger?"),
        ({"comms_logger": {"qwertz": 1}}, "unknown key comms_logger.qwertz; see https://"),
        ({"timers": {"throughput": {"enable": True}}}, "did you mean timers.throughput.enabled?"),
        ({"train_batch_size": 8}, "train_batch_size is decided by training.global_batch_size"),
        ({"zero_optimization": {"stage": 2}}, "zero_optimization.stage is decided by parallel.zero"),
        ({"gradient_clipping": 1.0}, "gradient_clipping is decided by training.optimizer.clip"),
        ({"bf16": {"enabled": True}}, "bf16 is decided by training.precision"),
        ({"optimizer": {"type": "AdamW"}}, "optimizer is decided by training.optimizer"),
        ({"zero_optimization": {"offload_optimizer": {}}}, "is decided by parallel.offload_optimizer"),
        ({"zero_optimization": {"zenflow": {}}}, "zero_optimization.zenflow is refused: its updates come late"),
        ({"sparse_attention": {}}, "sparse_attention is refused: DeepSpeed 0.19.8 has removed it"),
        ({"comms_logger": True}, "comms_logger must be a mapping"),
    ],
    ids=str,
)
def test_a_key_that_cannot_pass_is_named(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as inline:
        settings(deepspeed=config)
    assert message in str(inline.value)
    path = tmp_path / "more.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ValidationError) as in_file:
        settings(deepspeed=path)
    assert f"{path}: " in str(in_file.value)
    assert message in str(in_file.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold one JSON object, not list"),
        ('{"dump_state": true, "dump_state": false}', "key dump_state stands there twice"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "more.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"more\.json") as caught:
        settings(deepspeed=str(path))
    assert message in str(caught.value)


class Root(Settings):
    training: TrainingSettings


def test_a_settings_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    values = "steps: 1, sequence_length: 8, global_batch_size: 8, micro_batch_size: 2, engine: deepspeed"
    path.write_text(f"training: {{{values}}}\n")
    loaded = load([path], ["training.deepspeed.zero_optimization.overlap_comm=true"], root=Root)
    assert loaded.training.deepspeed == {"zero_optimization": {"overlap_comm": True}}
    path.write_text(f"training:\n  deepspeed: {{dump_stat: true}}\n  {values.replace(', ', chr(10) + '  ')}\n")
    with pytest.raises(ConfigurationError, match=r"run\.yaml:2: training\.deepspeed: unknown key dump_stat; did you"):
        load([path], root=Root)


def test_a_file_becomes_its_content(tmp_path: Path) -> None:
    path = tmp_path / "more.json"
    content = {"comms_logger": {"enabled": True}, "zero_optimization": {"reduce_bucket_size": 7}}
    path.write_text(json.dumps(content))
    read = settings(deepspeed=path)
    path.unlink()
    assert read.deepspeed == content
    assert TrainingSettings.model_validate(read.model_dump(mode="json")) == read


def test_the_whole_configuration_has_both_parts() -> None:
    training = settings(deepspeed={"steps_per_print": 5, "zero_optimization": {"reduce_bucket_size": 7}})
    config = engine_config(training, ParallelSettings(zero=2, offload_optimizer=True), 2, pinned=True)
    assert config["steps_per_print"] == 5
    assert config["gradient_accumulation_steps"] == 2
    assert config["gradient_clipping"] == training.optimizer.clip
    assert config["zero_optimization"] == {
        "stage": 2,
        "memory_efficient_linear": False,
        "reduce_bucket_size": 7,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
    }


def test_settings_do_not_import_deepspeed() -> None:
    code = (
        "import sys; from megadape.training.settings import TrainingSettings as T;"
        "T(steps=1, sequence_length=8, global_batch_size=8, micro_batch_size=2, engine='deepspeed',"
        "deepspeed={'dump_state': False}); sys.exit('deepspeed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("training", "parallel", "message"),
    [
        ({"engine": "torch"}, {"zero": 1}, "only training.engine: deepspeed shards its optimizer"),
        ({}, {"pp": 2}, "needs parallel.zero: 1, not 0"),
        ({"precision": "fp16"}, {"pp": 2, "zero": 1}, "fp16 is not for DeepSpeed's own pipeline"),
    ],
)
def test_an_engine_refuses_what_it_cannot_do(training: Any, parallel: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_engine(settings(**training), ParallelSettings(**parallel))


def test_deepspeed_keys_need_deepspeed() -> None:
    with pytest.raises(ValueError, match=r"training.deepspeed configures the engine deepspeed"):
        settings(engine="torch", deepspeed={"dump_state": True})


class Recording(dict[str, Any]):
    """A configuration that remembers which keys DeepSpeed looks for."""

    def __init__(self, content: dict[str, Any], asked: set[str], prefix: str = "") -> None:
        super().__init__(content)
        self.asked, self.prefix = asked, prefix

    def __copy__(self) -> Recording:
        return self

    def __contains__(self, key: object) -> bool:
        self.asked.add(f"{self.prefix}{key}")
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(f"{self.prefix}{key}")
        return super().get(key, default)

    def keys(self) -> Any:
        return Keys(self)


class Keys:
    """``key in config.keys()`` is a look-up too."""

    def __init__(self, owner: Recording) -> None:
        self.owner = owner

    def __contains__(self, key: object) -> bool:
        return key in self.owner

    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self.owner)


def looked_up() -> set[str]:
    """Every top-level key that DeepSpeed looks for, and those of sections that it reads key by key."""
    from deepspeed.runtime.config import DeepSpeedConfig

    asked: set[str] = set()
    content: dict[str, Any] = {"train_batch_size": 1, "flops_profiler": Recording({}, asked, "flops_profiler.")}
    DeepSpeedConfig(Recording(content, asked))  # type: ignore[arg-type]
    return asked


def declared() -> set[str]:
    """Every key of the sections that DeepSpeed declares as classes."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    sections = {
        "zero_optimization": DeepSpeedZeroConfig,
        "comms_logger": CommsLoggerConfig,
        "tensorboard": TensorBoardConfig,
        "wandb": WandbConfig,
        "csv_monitor": CSVConfig,
        "comet": CometConfig,
        "timers.throughput": DeepSpeedThroughputTimerConfig,
    }
    return {
        f"{section}.{key}"
        for section, model in sections.items()
        for name, field in model.model_fields.items()
        for key in (name, field.alias)
        if key is not None
    }


def test_the_table_has_every_key_that_deepspeed_reads() -> None:
    """Fails after an upgrade of DeepSpeed that adds keys or takes some away."""
    from deepspeed.runtime.config import _REMOVED_TOP_LEVEL_CONFIG_KEYS, _REMOVED_ZERO_CONFIG_KEYS

    removed = set(_REMOVED_TOP_LEVEL_CONFIG_KEYS) | {f"zero_optimization.{key}" for key in _REMOVED_ZERO_CONFIG_KEYS}
    read = looked_up() | declared() | removed
    assert "gradient_clipping" in read  # the recording works
    assert sorted(read - KNOWN - SECTIONS) == []
    # sequence_parallel_size is read without an mpu alone
    assert sorted(KNOWN - read) == ["sequence_parallel_size"]


def test_no_key_is_in_two_tables() -> None:
    assert not PASSED & OWNED.keys()
    assert not PASSED & REFUSED.keys()
    assert not OWNED.keys() & REFUSED.keys()
    check_user_config({"timers": {"throughput": {"enabled": False}}}, "")


def refused_values(configs: list[dict[str, Any]]) -> list[str]:
    """What DeepSpeed's engine says of each."""
    messages = []
    for config in configs:
        with pytest.raises(ConfigurationError) as caught:
            start(Case("deepspeed", zero=2, deepspeed=config))
        messages.append(str(caught.value))
    return messages


def test_a_value_that_deepspeed_refuses_is_the_users_mistake() -> None:
    configs = [
        {"zero_optimization": {"reduce_bucket_size": -1}},
        {"communication_data_type": "fp8"},
        {"prescale_gradients": True},
    ]
    for message, words in zip(
        run_distributed(1, refused_values, configs)[0],
        ("reduce_bucket_size", "communication_data_type", "pre-scale gradients"),
        strict=True,
    ):
        assert "training.deepspeed" in message
        assert words in message
