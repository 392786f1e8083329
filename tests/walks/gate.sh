# Gate a candidate: the baseline is the checkpoint of walk "score", the candidate is the same model with weights rounded to 4 bits.
tasks=glue/rte,superglue/copa,superglue/cb
assay run --model ckpt --tasks $tasks
assay baseline set v1 ckpt
[[ -d candidate ]] || python "$WALKS/../rounding.py" ckpt candidate
assay run --model candidate --tasks $tasks
assay compare v1 candidate
code=0
assay gate candidate --baseline v1 --markdown gate.md --junit gate.xml || code=$?
[[ $code == 10 || $code == 11 ]] || { echo "a model rounded to 4 bits must not pass, but the gate exited with $code" >&2; exit 1; }
grep -q "v1\|ckpt" gate.md
assay run --model ckpt --tasks $tasks
code=0
assay gate ckpt --baseline v1 || code=$?
[[ $code == 0 || $code == 11 ]] || { echo "equal weights must not be a regression, but the gate exited with $code" >&2; exit 1; }
