"""Certificates: radii within which no attack changes an answer, and the attacks that are held against them."""

from sonet.certificate.bound import Bound, CannotCertify, bound_network
from sonet.certificate.radii import Certificates, certify
from sonet.certificate.record import make_certificate
from sonet.certificate.run import CertificateBroken, Certification, certify_model, distances

__all__ = [
    "Bound",
    "CannotCertify",
    "CertificateBroken",
    "Certificates",
    "Certification",
    "bound_network",
    "certify",
    "certify_model",
    "distances",
    "make_certificate",
]
