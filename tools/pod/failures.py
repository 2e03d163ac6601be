"""Known gcloud failures, each as one sentence that says what to do.

Messages are from gcloud 528 and the Cloud TPU API: https://cloud.google.com/tpu/docs/troubleshooting,
https://cloud.google.com/tpu/docs/quota, https://cloud.google.com/tpu/docs/setup-gcp-account (roles, API).
"""

import re

from pipeline.errors import UserError, WorkFailedError
from tools.pod import offers
from tools.pod.request import Request

SSH_KEY = "~/.ssh/google_compute_engine"
# By pattern: what it means, in words that may use {zone}, {type}, {zones} and {name}. The first match decides.
WRONG_INPUT = (
    (
        r"active account selected|gcloud auth login|invalid_grant|Reauthentication",
        "gcloud is not logged in; run `gcloud auth login`",
    ),
    (
        r"attribute \[project\]|property \[(core/)?project\]|project.*not properly specified",
        "no project is set; give --project=PROJECT or run `gcloud config set project PROJECT`",
    ),
    (
        r"SERVICE_DISABLED|API has not been used|it is disabled|accessNotConfigured",
        "the Cloud TPU API is off in this project; run `gcloud services enable tpu.googleapis.com`",
    ),
    (
        r"[Qq]uota (limit|metric|exceeded)|quota limits|QUOTA_EXCEEDED|Quota.*has been exceeded",
        "the project's quota has no room for a {type} in {zone}; ask for it on the console's page of quotas "
        "(Cloud TPU API), or use the zone and the kind (--spot, or on demand) that the grant names",
    ),
    (
        r"iam\.serviceAccounts\.actAs|serviceAccountUser",
        "this account may not use the slice's service account; it needs the role roles/iam.serviceAccountUser on it",
    ),
    (
        r"storage\.(objects|buckets)\.|does not have storage",
        "the slice's service account may not use the bucket; it needs the role roles/storage.objectAdmin on it",
    ),
    (
        r"PERMISSION_DENIED|\b403\b|does not have permission|tpu\.\w+\.\w+' (permission )?(is )?denied",
        "this account has no permission here; it needs the role roles/tpu.admin in the project "
        "(and roles/iam.serviceAccountUser on the slice's service account)",
    ),
    (
        r"[Ii]nvalid value.*accelerator|accelerator.?[Tt]ype.*(not found|is not|unsupported|[Ii]nvalid)",
        "{zone} has no {type}; it is offered in {zones}",
    ),
    (
        r"[Ll]ocation '?[\w-]+'? (is|was) not found|[Uu]nknown (zone|location)|locations/[\w-]+'? (is|was) not found",
        "{zone} is no zone of the Cloud TPU API; {type} is offered in {zones}",
    ),
    (r"unrecognized arguments|Invalid choice", "this gcloud does not know the command; run `gcloud components update`"),
)
FAILED = (
    (
        r"no more capacity|RESOURCE_POOL_EXHAUSTED|[Ii]nsufficient capacity|not enough (resources|capacity)|stockout",
        "{zone} has no room for a {type} now; the request can wait for it (create again without "
        "--valid_until_duration), or try another of {zones}",
    ),
    (
        r"Permission denied \(publickey|SSH Key is not present|Host key verification failed|Too many authentication",
        f"ssh refuses the key; remove {SSH_KEY} and {SSH_KEY}.pub so that gcloud makes a new one, "
        "or, where the project has OS Login, ask for the role roles/compute.osAdminLogin",
    ),
    (
        r"Connection (timed out|refused|reset|closed)|No route to host|return code \[255\]|is unreachable|timed out",
        "the host is not reachable by ssh; is its state READY (status), and does a firewall rule of the network let "
        "port 22 in (`gcloud compute firewall-rules list`)?",
    ),
    (
        r"terminal state|has state \"(PREEMPTED|TERMINATED)",
        "the TPU was preempted or stopped; create it again (run --keep does so by itself)",
    ),
    (r"has state \"", "the TPU is not ready yet; wait for ACTIVE (create), then try again"),
    (r"maintenance event", "the TPU is in a maintenance event; try again when it is over"),
)
UNKNOWN = "gcloud: "  # begins the error for any other message
MISSING = re.compile(r"NOT_FOUND.*/(queuedResources|nodes)/|/(queuedResources|nodes)/\S+ was not found")
EXISTS = re.compile(r"ALREADY_EXISTS|already exists|\b409\b")


def explain(text: str, request: Request) -> Exception:
    """Returns an error that explains gcloud's message; for an unknown message, its first line."""
    words = {
        "name": request.name,
        "zone": request.zone,
        "type": offers.accelerator_type(request.piece),
        "zones": ", ".join(offers.zones(request.piece)),
    }
    if MISSING.search(text):
        return UserError(f"{request.zone} has no TPU called {request.name!r} in this project; create makes it")
    for table, kind in ((WRONG_INPUT, UserError), (FAILED, WorkFailedError)):
        for pattern, meaning in table:
            if re.search(pattern, text):
                return kind(meaning.format(**words))
    lines = [line for line in text.splitlines() if line.strip()] or ["no message"]
    first = next((line for line in lines if line.startswith("ERROR")), lines[-1])
    return WorkFailedError(f"{UNKNOWN}{first.removeprefix('ERROR: ')}"[:300])
