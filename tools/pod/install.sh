#!/bin/sh
# Runs on a slice's host, after an archive of the checkout is unpacked into ~/pod/new:
#
#     sh ~/pod/new/tools/pod/install.sh STAMP
#
# Installs Python 3.11 (the images have 3.10) and the packages of requirements-tpu.txt in ~/pod/venv, then moves the
# checkout into place. It uses uv, a single file that brings its own interpreter: apt's packages would need root, and
# the lock that the first boot's upgrades hold. Safe to repeat; the stamp is written last.
set -eu
cd "$HOME/pod"
if systemctl is-active --quiet gpt2-train.service; then
  echo "a run is active here; setup would replace its code: stop it first" >&2
  exit 1
fi
PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -x venv/bin/python ] || uv venv --python 3.11 venv
uv pip install --python venv/bin/python --requirement new/requirements-tpu.txt
# tensorflow-text's dependencies would install the CPU build of TensorFlow.
uv pip install --python venv/bin/python --no-deps "$(grep -o 'tensorflow-text==[0-9.]*' new/requirements-tpu.txt)"
rm -rf checkout
mv new checkout
printf '%s\n' "$1" >stamp
