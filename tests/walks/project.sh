# A project with folders and files called like ours: every benchmark is listed, the demo runs, pytest collects its own tests.
mkdir -p project/tasks project/tests
cd project
for name in tasks/__init__.py tests/__init__.py harness.py leaderboard.py; do echo "OWN = True" > "$name"; done
cat > tests/test_release.py <<'PY'
def test_release(assay_gate):
    assert assay_gate is not None
PY
python -c "import assay, sys; assert not {'harness', 'tasks', 'tuners', 'leaderboard'} & set(sys.modules)"
(cd .. && ! python -c "import harness" 2> /dev/null) || { echo "the wheel makes \`import harness\` work" >&2; exit 1; }
PYTHONPATH=. assay tasks > listed.txt
for family in glue superglue mmlu helm bigbench; do grep -q "^$family" listed.txt || { echo "assay tasks lost $family" >&2; exit 1; }; done
PYTHONPATH=. assay demo
PYTHONPATH=. python -m pytest -q -p no:cacheprovider
