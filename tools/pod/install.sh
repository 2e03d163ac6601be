#!/bin/sh
# On a host of a slice, after an archive of the checkout was unpacked into ~/pod/new:
#
#     sh ~/pod/new/tools/pod/install.sh STAMP
#
# Brings Python 3.11 (the images have 3.10) and the packages of requirements-tpu.txt into ~/pod/venv, then puts the
# checkout in its place. uv, because it is one file with an interpreter of its own: apt's packages would need root, and
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
# With its dependencies, tensorflow-text would bring the CPU build of TensorFlow along.
uv pip install --python venv/bin/python --no-deps "$(grep -o 'tensorflow-text==[0-9.]*' new/requirements-tpu.txt)"
rm -rf checkout
mv new checkout
printf '%s\n' "$1" >stamp
