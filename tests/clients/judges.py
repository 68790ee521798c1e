"""Compares an independent validator of RFC 5280 on the generated chains of tests/differential.

    MUTANTS_OUT=chains.ndjson cargo test --test differential
    python judges.py anchorgate chains.ndjson

anchorgate must reject what pyhanko-certvalidator rejects, unless `EXPLAINED` gives a reason.  The reverse
does not hold: that validator does not check anchors and does not read every extension.
"""

import asyncio
import base64
import datetime
import json
import re
import subprocess
import sys

from asn1crypto import x509
from pyhanko_certvalidator import CertificateValidator, ValidationContext
from pyhanko_certvalidator.policy_decl import (
    CertRevTrustPolicy,
    RevocationCheckingPolicy,
    RevocationCheckingRule,
)

NO_LISTS = CertRevTrustPolicy(
    RevocationCheckingPolicy(RevocationCheckingRule.NO_CHECK, RevocationCheckingRule.NO_CHECK)
)

# (part of its message, change of the chain), with the reason by RFC 5280.
EXPLAINED = [
    # 4.2.1.12: anyExtendedKeyUsage stands for every purpose.
    ("not valid for the purpose of client auth", "anyExtendedKeyUsage"),
    # It does not compare addresses.
    ("No containment checker available", "names and constraints"),
    # 4.2.1.1: key identifiers help to find a path; 6.1 does not compare them.
    ("Unable to build a validation path", "wrong key identifier"),
]


def certificates(line):
    authority = line["directory"]["value"][0]["certificateAuthorities"][0]["certificate"]
    blocks = re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END", line["chainPem"], re.S)
    return base64.b64decode(authority), [base64.b64decode(block) for block in blocks]


def pyhanko(root, chain, at):
    context = ValidationContext(
        trust_roots=[x509.Certificate.load(root)],
        moment=at,
        revinfo_policy=NO_LISTS,
        allow_fetching=False,
        weak_hash_algos=set(),
    )
    leaf, *others = (x509.Certificate.load(der) for der in chain)
    validator = CertificateValidator(leaf, intermediate_certs=others, validation_context=context)
    asyncio.run(validator.async_validate_usage(set(), {"client_auth"}, extended_optional=True))


def main(program, path):
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    questions = "".join(json.dumps(line) + "\n" for line in lines)
    answers = subprocess.run(
        [program, "verify", "--batch"], input=questions, capture_output=True, text=True, check=True
    )
    faults, accepted, refused = [], 0, 0
    for line, answer in zip(lines, map(json.loads, answers.stdout.splitlines()), strict=True):
        if answer["decision"] != "accept":
            refused += 1
            continue
        accepted += 1
        root, chain = certificates(line)
        at = datetime.datetime.fromisoformat(line["at"].replace("Z", "+00:00"))
        try:
            pyhanko(root, chain, at)
        except Exception as error:  # whatever it is called, it refuses
            told = f"{type(error).__name__}: {error}"
            known = any(words in told and change in line["changes"] for words, change in EXPLAINED)
            if not known:
                faults.append(f"{line['id']} {line['changes']}: {told}")
    print(f"judges: {accepted} accepted, {refused} refused, {len(faults)} disagreements")
    for fault in faults:
        print(f"  accepted only by anchorgate: {fault}")
    return 1 if faults or not accepted or not refused else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
