"""Writes docs/study.md and its plots from the results beside it; no figure in them comes from anywhere else.

    python -m tools.study.page [--output=docs/study.md] [--run_dir=runs/study]

If there is a run directory, cells that have finished there are added first.
"""

import pathlib
import statistics
from collections.abc import Iterable, Mapping

from absl import flags

from pipeline import cli
from pipeline.errors import UserError
from tools import plots
from tools.study import figures
from tools.study.cells import (
    CORPORA,
    HEAD_WIDTH,
    LARGER_LAYERS,
    LARGER_WIDTH,
    LAYERS,
    UNCHANGED,
    VOCABULARY,
    WIDTH,
    StudyConfig,
    grid,
    parts,
)
from tools.study.claims import UNTESTABLE, Parts, testable
from tools.study.results import Noise, Row, difference
from tools.study.store import Store
from tools.study.tuning import chosen, planned, rate_grid

FLAGS = flags.FLAGS
TITLES = {
    "optimizers": "Optimizers, each at the best of its learning rates",
    "larger": "A larger model",
    "embeddings": "ALGPT2 against GPT-2 at equal width, by the width E of the token table",
    "contexts": "Context length at equal tokens",
    "dropout": "Dropout",
    "ablations": "What of the default recipe matters",
}
NOTES = {
    "optimizers": "`frozen` is Adafactor with the 2020 study's bug ([train.py](../tools/study/train.py)), `scaled` is "
    "Adafactor with parameter scaling, as in gpt2.gin and algpt2.gin, and `momentum` adds a momentum of 0.9, "
    "as in quickstart.gin; `adafactor` and `frozen` use absolute rates. `nanogpt` is AdamW as in nanoGPT: betas of "
    "0.9 and 0.95, weight decay 0.1, a cosine to a tenth of the rate; all others use a linear schedule to 0. `muon` "
    "is Muon on the matrices with AdamW for the rest.",
    "larger": f"{LARGER_LAYERS} layers and width {LARGER_WIDTH}, 2.3 times the FLOPs, each optimizer at its best rate "
    "for this model.",
    "embeddings": "All use Adafactor with parameter scaling, GPT-2 and ALGPT2 each at its best learning rate, ALGPT2 "
    "with momentum too.",
    "contexts": "When the context doubles, sequences per step halve. Each model is scored at its own context.",
    "dropout": "Corpora lists how often a cell passes over its text. ALGPT2 has no factorization here.",
    "ablations": "Each row changes one thing in Adafactor with parameter scaling, at its rate, in runs as short as "
    "those for the learning rates. The numbers after `tables`, `norms` (their scales), `matrices` (of the blocks), "
    "`linear` (ALGPT2's layers between table and blocks) and `biases` multiply only these variables' rate; "
    "`sizes_of_the_start` uses, approximately, their initial size instead of their current size.",
}


def main() -> None:
    """Adds newly finished cells from the run directory, and writes the page."""
    output, runs = plots.page_of("output"), pathlib.Path(FLAGS.run_dir or "-")
    store = Store.load(output.with_suffix(".json"))
    if "study" not in store.content:
        raise UserError(f"--output={output}: there is no {store.path} with a study's results; make study makes them")
    if (runs / "cells").is_dir():
        study = StudyConfig(**store.content["study"])
        while store.collect(runs, planned(store, study)):  # a result can add a rate to a grid
            pass
    write(store, output)


def write(store: Store, page: pathlib.Path) -> None:
    """Writes the page and, in a folder of its name beside it, its plots."""
    study = StudyConfig(**store.content["study"])
    grids = grid(study)
    best = chosen(store, grids)
    cells = parts(study, dict.fromkeys(grids, 0.0) | best)
    rows = {part: {label: store.row(row) for label, row in labels.items()} for part, labels in cells.items()}
    tried = {name: rate_grid(store, cell) for name, cell in grids.items()}
    over = {name: {f"{cell.rate:g}": store.loss(cell) for cell in cells} for name, cells in tried.items()}
    losses = {name: {rate: loss for rate, loss in rates.items() if loss} for name, rates in over.items()}
    curves = {
        label: store.cells[row[0].name].get("curve")
        for label, row in cells["optimizers"].items()
        if row[0].name in store.cells
    }
    missing = len(store.missing(planned(store, study)))
    noise = Noise.of(row for labels in rows.values() for row in labels.values())
    text = [_head(study, noise, missing), _claims(rows, noise, study), _corpora(store, study)]
    text += [_grid(losses, best, study, page.stem)]
    text += [_part(part, rows[part], noise, page.stem, with_curves=any(curves.values())) for part in rows]
    page.write_text("\n".join(text), encoding="utf-8")
    drawn = {part: {label: row.nats if row else {} for label, row in labels.items()} for part, labels in rows.items()}
    figures.draw(losses, drawn, {label: curve for label, curve in curves.items() if curve}, page.with_suffix(""))
    print(f"wrote {page}" + (f"; {missing} cells are not run yet" if missing else ""))


def _head(study: StudyConfig, noise: Noise, missing: int) -> str:
    known = f" ({noise.deviation:.4f} nats, {noise.freedom} degrees of freedom)" if noise.freedom else ""
    left = f"\n**{missing} cells are not run yet; `make study` continues with them.**\n" if missing else ""
    return f"""# The study of 2020, re-run small

Written by `python -m tools.study.page` from the results of `make study`; nothing here is typed by hand.

The study trained GPT-2 and ALGPT2 on OpenWebText on a v3-128, with an Adafactor whose decay a bug had frozen. This
page repeats what two CPU cores can answer: models of {LAYERS} layers, {WIDTH // HEAD_WIDTH} heads and width {WIDTH},
{study.tokens:,} tokens per run, {study.batch} sequences of {study.context} tokens per step, gradients clipped to a
global norm of 1. Rows that our defaults depend on have {study.seeds} seeds, the others one. Each corpus has its own
byte-level BPE vocabulary of {VOCABULARY:,} entries, so perplexities are only comparable within this page.

Losses are means over the whole validation part. ± is the standard deviation over the seeds; for a difference it is the
standard error over the seeds, in pairs. For single seeds, a difference is judged by the deviation of all rows with
several seeds{known}. Two rows differ clearly if Student's t separates the difference from 0 at 95 %: with three seeds,
if it exceeds 4.3 standard errors.
{left}"""


def _claims(rows: Parts, noise: Noise, study: StudyConfig) -> str:
    lines = [(claim.text, *claim.verdict(rows, noise)) for claim in testable(study.contexts)]
    lines += [(claim, "not testable at this scale", reason) for claim, reason in UNTESTABLE.items()]
    heading = (
        "## Claims\n\nClaims of the 2020 study, and ours where marked. *Measured* is the loss of the row that the "
    )
    heading += "claim calls worse minus that of the other.\nA clear difference of the claimed sign confirms a claim, "
    heading += "whatever its size.\n\n"
    return heading + _table(("claim", "here", "measured"), lines)


def _corpora(store: Store, study: StudyConfig) -> str:
    lines = []
    for corpus in CORPORA:
        for name, part in store.content.get("data", {}).get(corpus, {}).items():
            if name != "fingerprint":
                passes = f"{study.tokens / part['tokens']:.2f}" if name == "train" else "—"
                figures = [f"{part[key]:,}" for key in ("documents", "utf8_bytes", "tokens")]
                lines.append((f"{corpus}, {name}", *figures, passes))
    header = ("", "documents", "bytes", "tokens", "passes per cell")
    return f"""## Corpora

`cpython` is the documentation and library of CPython {store.content.get("python", "")}, `kernel` the documentation of
the Linux kernel, from Debian's package linux-doc-6.1 (version 6.1.176-1), and `wikitext` the articles of WikiText-2's
validation and test parts, split again.

{_table(header, lines)}"""


def _grid(losses: Mapping[str, Mapping[str, float]], best: Mapping[str, float], study: StudyConfig, folder: str) -> str:
    lines = []
    for name, rates in losses.items():
        tried = ", ".join(f"{rate}: {loss:.3f}" for rate, loss in rates.items())
        shown = figures.GRIDS.get(name, name)
        lines.append((shown, tried or "not run yet", f"{best[name]:g}" if name in best else "not known yet"))
    heading = f"## Learning rates\n\nValidation loss in nats per token on {CORPORA[0]} after {study.grid_tokens:,} "
    heading += "tokens (larger model:\n"
    heading += f"{study.tokens:,}), one seed. All cells with the same optimizer, model and size use the best.\n\n"
    picture = (
        f"\n![Learning rates: validation loss over the rate]({folder}/rates.svg)\n" if any(losses.values()) else ""
    )
    return heading + _table(("optimizer", "rate: loss", "best"), lines) + picture


def _part(part: str, rows: Mapping[str, Row | None], noise: Noise, folder: str, *, with_curves: bool) -> str:
    header = ["", "rate", "M parameters", "MFLOPs per token", "seeds", "nats per token", "perplexity", "bits per byte"]
    lines = [[label, *(_row(row) if row else ["—"] * (len(header) - 1))] for label, row in rows.items()]
    if part == "ablations":
        header.append(f"more than {UNCHANGED}")
        lines = [[*line, _more(line[0], rows, noise)] for line in lines]
    picture = f"![{TITLES[part]}: validation loss]({folder}/{part}.svg)\n" if any(rows.values()) else ""
    if part == "optimizers" and with_curves:
        picture += f"\n![Train loss of the first seed over the tokens]({folder}/tokens.svg)\n"
    return f"## {TITLES[part]}\n\n{NOTES[part]}\n\n{_table(header, lines)}\n{picture}"


def _row(row: Row) -> list[str]:
    loss = f"{row.mean:.3f}" + (f" ± {row.deviation:.3f}" if len(row.nats) > 1 else "")
    figures = [f"{row.rate:g}", f"{row.parameters / 1e6:.2f}", f"{row.flops / 1e6:.1f}", str(len(row.nats))]
    return [*figures, loss, f"{row.perplexity:.1f}", f"{statistics.mean(row.bits.values()):.3f}"]


def _more(label: str, rows: Mapping[str, Row | None], noise: Noise) -> str:
    """Returns how far an ablation's loss is above that of its panel's unchanged row, and whether that is clear."""
    more = difference(rows[label], rows[f"{label.partition(': ')[0]}: {UNCHANGED}"], noise)
    if label.endswith(UNCHANGED) or more is None:
        return "—"
    return f"{more.nats}, clear" if more.is_clear else more.nats


def _table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = list(header)
    rows = [head, ["---"] * len(head), *map(list, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("run_dir", "runs/study", "The study's run directory, if it is there.")
    cli.define_path("output", "docs/study.md", "The page to write; its results are beside it, as JSON.")


if __name__ == "__main__":
    cli.run(main, define_flags)
