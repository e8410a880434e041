#!/usr/bin/env bash
# Run the install steps of the Dockerfile in a clean virtual environment, on machines without a container engine.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
export PATH="$work/venv/bin:$PATH" VIRTUAL_ENV="$work/venv"

# Steps before the Dockerfile's: uv, and the default torch of pip on this machine (uv then finds it installed).
pip install --quiet "$(grep --only-matching 'uv==[0-9.]*' docker/Dockerfile)"
pip install --quiet --constraint constraints.txt torch

mkdir "$work/src"
grep '^COPY ' docker/Dockerfile | while read -r _ copied; do
  read -ra names <<< "$copied"
  for name in "${names[@]:0:${#names[@]}-1}"; do cp -r "$name" "$work/src/"; done
done

# Run every `RUN uv ...` with its continuation lines, in order; torch is installed above, so its build is not chosen here.
awk '/^RUN uv /{on=1} on{line=$0; sub(/^RUN /,"",line); print line; if (line !~ /\\$/) on=0}' docker/Dockerfile \
  | sed "s#/src#$work/src#g; s# --torch-backend \"[^\"]*\"##" > "$work/steps.sh"
cat "$work/steps.sh"
bash -euo pipefail "$work/steps.sh"

cd "$work"
medhybrid config brain.yaml > /dev/null
python -c "import torch, monai, mlflow, highdicom, medhybrid; print('medhybrid', medhybrid.__version__, 'torch', torch.__version__)"
