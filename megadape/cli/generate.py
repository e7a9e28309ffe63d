"""``megadape generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megadape.cli.base import RunDir


def generate(
    run_dir: RunDir,
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Prompts; default: standard input, a prompt a line.")
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", help='A prompt a line, or .jsonl with "prompt".')
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write all texts to this .jsonl file, each as it ends.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most how many tokens a text; default 128.")] = None,
    samples: Annotated[int | None, typer.Option(help="Texts for each prompt; default 1.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Default 1; 0 takes the likeliest token.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="As --temperature 0.")] = False,
    top_k: Annotated[int | None, typer.Option(help="Draw among so many of the likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw among the fewest tokens that are together so likely.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1, tokens that are in the text already become less likely.")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End a text before this string; repeatable.")] = None,
    keep_stop: Annotated[bool, typer.Option("--keep-stop", help="End it after that string.")] = False,
    ignore_end: Annotated[bool, typer.Option("--ignore-end", help="Go on past the end of the document.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of what is drawn; default 0.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts that are written at once; default 16.")] = None,
    read_as: Annotated[
        int | None,
        typer.Option(help="Length that yarn and randomized_rope read texts as; default: as they grow, which is slow."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Prefix of a dataset with the run's tokenizer.")] = None,
    echo: Annotated[bool, typer.Option(help="Show prompts before their texts.")] = True,
) -> None:
    """Go on with texts, as the run's newest checkpoint would; an empty prompt begins a document.

    Texts appear as they are written, speed on standard error. On several ranks (torchrun, srun) each layer is shared.

    Example: megadape generate runs/demo "def main(" --max-tokens 200 --top-p 0.9 --samples 3 --out texts.jsonl
    """
    from megadape.errors import ConfigurationError
    from megadape.generation import generation_settings
    from megadape.studies.generate import GenerationRequest, for_terminal, generate_and_write

    if greedy and temperature:
        raise ConfigurationError(f"--greedy is --temperature 0, but --temperature {temperature:g} is given: choose one")
    settings = generation_settings(
        max_tokens=max_tokens,
        samples=samples,
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        keep_stop=keep_stop,
        ignore_end=ignore_end,
        seed=seed,
        batch_size=batch_size,
        read_as=read_as,
    )
    request = GenerationRequest(run_dir, settings, prompts or (), prompts_file, data, out, echo)
    try:
        generate_and_write(request, for_terminal(lambda text: typer.echo(text, nl=False)))
    except KeyboardInterrupt as interruption:
        typer.echo()
        raise typer.Exit(130) from interruption
