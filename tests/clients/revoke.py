"""Revokes a device of the quickstart by a delta CRL: revoke.py QUICKSTART.JSON CERT.PEM"""
import datetime
import json
import os
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

index = json.load(open(sys.argv[1]))
cert = x509.load_pem_x509_certificate(pathlib.Path(sys.argv[2]).read_bytes())
slug = pathlib.Path(sys.argv[2]).stem.split("-")[0]
pki = pathlib.Path(sys.argv[2]).parent
issuer = x509.load_pem_x509_certificate((pki / f"{slug}-issuer.pem").read_bytes())
key = serialization.load_pem_private_key((pki / f"{slug}-issuer.key").read_bytes(), None)
path = pathlib.Path(index["crl_dir"]) / f"{slug}-issuer-delta.crl"
old = x509.load_der_x509_crl(path.read_bytes())
number = old.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
base = old.extensions.get_extension_for_class(x509.DeltaCRLIndicator).value.crl_number
now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
entry = x509.RevokedCertificateBuilder().serial_number(cert.serial_number).revocation_date(now)
entry = entry.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False).build()
builder = (
    x509.CertificateRevocationListBuilder()
    .issuer_name(issuer.subject)
    .last_update(now - datetime.timedelta(seconds=1))
    .next_update(now + datetime.timedelta(days=1))
    .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value), critical=False)
    .add_extension(x509.CRLNumber(number + 1), critical=False)
    .add_extension(x509.DeltaCRLIndicator(base), critical=True)
    .add_revoked_certificate(entry)
)
for revoked in old:
    builder = builder.add_revoked_certificate(revoked)
crl = builder.sign(key, hashes.SHA256())
aside = path.with_suffix(".new")
aside.write_bytes(crl.public_bytes(serialization.Encoding.DER))
os.replace(aside, path)
