"""Reads AuditEvents, one a line, with the models of fhir.resources (R4B)."""

import sys

from fhir.resources.R4B.auditevent import AuditEvent
from pydantic import ValidationError

accepted = refused = 0
with open(sys.argv[1], encoding="utf-8") as lines:
    for line in lines:
        try:
            AuditEvent.model_validate_json(line)
            accepted += 1
        except ValidationError as error:
            refused += 1
            print(error, file=sys.stderr)
print(f"{accepted} accepted, {refused} refused")
