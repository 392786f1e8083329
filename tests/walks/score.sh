# Score a checkpoint in a local folder on three real tasks.
assay doctor
assay demo
[[ -d ckpt ]] || cp -r "${ASSAY_CACHE:-$HOME/.cache/assay}/models/smollm2-135m-instruct" ckpt
assay show glue/rte -n 1
assay run --model ckpt --tasks glue/rte,superglue/copa,mmlu/anatomy
assay store ls
assay store check
