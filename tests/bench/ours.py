"""assay's side: one evaluation as `assay run` makes it, with the engine's opening timed apart from everything else.

python ours.py MODEL OUT.json TASK SHOTS LIMIT ENGINE PARTIAL DEVICE DTYPE
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from measure import Spent, measured, peak_bytes, write

from assay import Plan
from assay.harness.engines import Engine, Settings
from assay.harness.engines.opening import open_engine
from assay.harness.files.places import surroundings
from assay.harness.model.find import ModelRef
from assay.harness.run.evaluate import evaluate
from assay.harness.store import read_run


def main() -> None:
    model, out, task, shots, limit, engine, partial, device, dtype = sys.argv[1:]
    with measured() as imports:  # as on lm-eval's side, where they belong to opening the engine
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    opening, peak = [Spent()], [0]

    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        with measured() as spent:
            opened = open_engine(name, ref, settings)
        opening[0] = spent
        return opened

    plan = Plan(
        model,
        (task,),
        shots=int(shots),
        limit=int(limit) or None,
        limit_order="first",
        engine=engine,
        device=device,
        dtype=dtype,
        allow_partial=partial == "1",
    )
    with tempfile.TemporaryDirectory() as folder:
        with measured() as whole:
            run = read_run(evaluate(plan, replace(surroundings(), results=Path(folder)), opener=opener))
            peak[0] = peak_bytes()
        summary, records = run.summary(), run.records()
        write(
            Path(out),
            {
                "side": f"assay {engine}",
                "items": [[sum(values) for values in record.output["logprobs"]] for record in records],
                "tokens": [[len(values) for values in record.output["logprobs"]] for record in records],
                "accuracy": summary["results"][0]["value"],
                **summary["tokens"],
                "engine": summary["engine"],
                "open": Spent(imports.wall + opening[0].wall, imports.cpu + opening[0].cpu).as_json(),
                "score": {"wall": round(whole.wall - opening[0].wall, 3), "cpu": round(whole.cpu - opening[0].cpu, 3)},
                "peak": peak[0],
            },
        )


if __name__ == "__main__":
    main()
