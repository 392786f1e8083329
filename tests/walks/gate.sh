# Gate a candidate: the checkpoint of the first walk is the release, its weights rounded to 4 bits are the candidate.
tasks=glue/rte,superglue/copa,superglue/cb
assay run --model ckpt --tasks $tasks
assay baseline set v1 ckpt
[[ -d candidate ]] || python "$WALKS/../rounding.py" ckpt candidate
assay run --model candidate --tasks $tasks
assay compare v1 candidate
code=0
assay gate candidate --baseline v1 --markdown gate.md --junit gate.xml || code=$?
[[ $code == 10 || $code == 11 ]] || { echo "a model rounded to 4 bits must not pass, but the gate ended with $code" >&2; exit 1; }
grep -q "v1\|ckpt" gate.md
assay run --model ckpt --tasks $tasks
code=0
assay gate ckpt --baseline v1 || code=$?
[[ $code == 0 || $code == 11 ]] || { echo "the same weights must not be called a regression, but the gate ended with $code" >&2; exit 1; }
