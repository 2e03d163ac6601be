# The pipeline on a CPU:
#
#   docker build --tag=gpt2-tpu-pipeline .
#   docker run --rm --volume="$PWD:/work" gpt2-tpu-pipeline pipeline.shard \
#     --gin_file=datasets/cpython.gin --output=/work/data/cpython
FROM python:3.11-slim-bookworm

WORKDIR /pipeline
# Before the code, so that a code change does not reinstall everything.
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir --requirement=requirements.txt

COPY gin gin
COPY models models
COPY pipeline pipeline
COPY tools tools

ENTRYPOINT ["python", "-m"]
CMD ["pipeline.train", "--help"]
