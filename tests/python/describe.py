"""Asks a relay to describe a hybrid connection, and reads the answer as .NET's SDK does: by its media type, then the first
element of Atom's content, then the fields in their fixed order."""

import email.message
import urllib.request
import xml.etree.ElementTree as xml

from report import OPTIONS, report, trust

ATOM = "{http://www.w3.org/2005/Atom}"
CONNECT = "{http://schemas.microsoft.com/netservices/2010/10/servicebus/connect}"
ORDER = ["CreatedAt", "UpdatedAt", "RequiresClientAuthorization", "UserMetadata", "ListenerCount"]

request = urllib.request.Request(
    OPTIONS["url"] + "?api-version=2016-07",
    headers={"X-PROCESS-AT": "ServiceBus", "Authorization": OPTIONS["token"]},
)
with urllib.request.urlopen(request, context=trust()) as answer:
    kind = email.message.Message()
    kind["Content-Type"] = answer.headers["Content-Type"]
    if kind.get_content_type() == "application/atom+xml" and kind.get_param("type") == "feed":
        raise SystemExit("a feed means that there is no such path")
    content = next(xml.fromstring(answer.read()).iter(ATOM + "content"))
description = content[0]
if description.tag != CONNECT + "HybridConnectionDescription":
    raise SystemExit(f"{description.tag} describes no hybrid connection")
names = [field.tag.removeprefix(CONNECT) for field in description]
if names != [name for name in ORDER if name in names]:
    raise SystemExit(f"a reader that keeps to the order would miss some of {names}")
report("described", **{field.tag.removeprefix(CONNECT): field.text for field in description})
