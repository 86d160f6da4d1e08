"""hostagent's element in a guest's metadata, as XML: read with suspicion, changed with care.

Layer: adapters; text in, text out, no libvirt. What is read was written by somebody else: nothing
is fetched, no entity is replaced, a text that is too long or no XML is that guest's problem and
the defaults apply. What is written replaces what it is about and keeps everything else: the policy
and the breadcrumb survive each other, and so do elements of other programs. schemas/guest-1.xsd
says what it may hold.

The texts are as virDomainGetMetadata gives and virDomainSetMetadata takes them: without the
namespace, which libvirt takes away and adds by itself. It does not add it to a root that declares
it already, so none is left on the root.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime

from lxml import etree

from hostagent.core.policy import GuestNotes, Home, Policy
from hostagent.rules import policy as policies

ROOT = "guest"
HOME = "home"

MOST_TEXT = 65_536
"""Characters. Whatever hostagent writes has less than a thousand; libvirt takes 4 MiB."""

LONGEST = 200
"""Characters of an attribute of the breadcrumb."""

_SHOWN = 60
_MOST_NAMED = 5
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def read(text: str) -> GuestNotes:
    """What the element says. Never raises."""
    try:
        root = _parse(text)
    except ValueError as error:
        return GuestNotes(problems=(f"hostagent's metadata {error}; the defaults apply",))
    texts, unclear = _texts(root)
    policy, wrong = policies.read(texts)
    home, lost = _home(root)
    return GuestNotes(policy=policy, problems=(*unclear, *wrong, *lost), home=home)


def with_policy(text: str | None, policy: Policy, keys: Iterable[str]) -> str | None:
    """The element with these keys as the policy has them; None when nothing is left in it. The
    very text again where it says so already."""
    root, altered = _opened(text)
    for key in keys:
        found = [child for name, child in _ours(root) if name == key]
        if _says(found, key, policy):
            continue
        altered = True
        _take_out(root, found)
        if not policies.is_default(policy, key):
            etree.SubElement(root, key).text = policies.text_of(policy, key)
    return _closed(root) if altered else text


def with_home(text: str | None, home: Home | None) -> str | None:
    """The element with this breadcrumb, or without any; as `with_policy`. Raises ValueError for
    one that would not be read again."""
    root, altered = _opened(text)
    if home is None and altered:
        return text  # nothing in it can be told to be a breadcrumb
    found = [child for name, child in _ours(root) if name == HOME]
    if _home(root) == (home, ()) and not altered:
        return text
    _take_out(root, found)
    if home is not None:
        written = etree.SubElement(root, HOME)
        written.attrib["host-uuid"] = home.host_uuid
        for name, value in (("host-name", home.host_name), ("since", home.since)):
            if value:
                written.attrib[name] = value
    if _home(root) != (home, ()):
        raise ValueError(f"no breadcrumb: {home}")
    return _closed(root)


def _parse(text: str) -> etree._Element:
    """The element. Raises ValueError with the end of a sentence."""
    if len(text) > MOST_TEXT:
        raise ValueError(f"is longer than {MOST_TEXT} characters")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    try:
        root = etree.fromstring(text.encode(), parser)
    except (etree.XMLSyntaxError, UnicodeError) as error:
        raise ValueError(f"is not XML ({_short(str(error))})") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise ValueError("has a document type of its own")
    name = etree.QName(root)
    if name.localname != ROOT or name.namespace not in (None, policies.NAMESPACE):
        raise ValueError(f"holds {_short(name.localname)} in place of {ROOT}")
    return root


def _opened(text: str | None) -> tuple[etree._Element, bool]:
    """The element to be changed, and whether it is a new one in place of one that can't be read."""
    if text is None:
        return etree.Element(ROOT), False
    try:
        return _parse(text), False
    except ValueError:
        return etree.Element(ROOT), True


def _closed(root: etree._Element) -> str | None:
    """The text of an element that was changed, with a new root: one without declarations."""
    if not any(isinstance(child.tag, str) for child in root):
        return None
    fresh = etree.Element(ROOT)
    for name, value in root.attrib.items():
        fresh.attrib[etree.QName(name).localname] = value
    for child in list(root):
        child.tail = None
        fresh.append(child)
    for element in fresh.iter("{" + policies.NAMESPACE + "}*"):
        element.tag = etree.QName(element).localname
    return etree.tostring(fresh, encoding=str)


def _take_out(root: etree._Element, found: Iterable[etree._Element]) -> None:
    for child in found:
        root.remove(child)


def _ours(root: etree._Element) -> Iterator[tuple[str, etree._Element]]:
    """Its elements by name, without comments and those of other programs."""
    for child in root:
        if isinstance(child.tag, str):
            name = etree.QName(child)
            if name.namespace in (None, policies.NAMESPACE):
                yield name.localname, child


def _texts(root: etree._Element) -> tuple[dict[str, str], list[str]]:
    """The policy's texts by key, and what is not clear."""
    found: dict[str, list[etree._Element]] = {}
    for name, child in _ours(root):
        found.setdefault(name, []).append(child)
    texts, unclear = {}, []
    for name in policies.KEYS:
        children = found.get(name, [])
        if len(children) > 1:
            unclear.append(f"{name} is there {len(children)} times; the default applies")
        elif children and len(children[0]):
            unclear.append(f"{name} holds more than a text; the default applies")
        elif children:
            texts[name] = (children[0].text or "").strip()
    unknown = [name for name in found if name not in policies.KEYS and name != HOME]
    if unknown:
        named = ", ".join(_short(name) for name in unknown[:_MOST_NAMED])
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        unclear.append(f"this version of hostagent does not know {named}{more}")
    return texts, unclear


def _says(found: list[etree._Element], key: str, policy: Policy) -> bool:
    """Whether these elements, and nothing else, say what the policy says by this key."""
    if len(found) > 1 or (found and len(found[0])):
        return False
    text = (found[0].text or "").strip() if found else ""
    said, problems = policies.read({key: text})
    return not problems and policies.same(said, policy, key)


def _home(root: etree._Element) -> tuple[Home | None, tuple[str, ...]]:
    """The breadcrumb, or what is wrong with it."""
    found = [child for name, child in _ours(root) if name == HOME]
    if not found:
        return None, ()
    if len(found) > 1:
        return None, (f"{HOME} is there {len(found)} times and is not followed",)
    home = Home(
        host_uuid=found[0].get("host-uuid", "").lower(),
        host_name=found[0].get("host-name", ""),
        since=found[0].get("since", ""),
    )
    if not _UUID.fullmatch(home.host_uuid):
        return None, (f"{HOME} names no host's UUID and is not followed",)
    if max(len(home.host_name), len(home.since)) > LONGEST or not _is_time(home.since):
        return None, (f"{HOME} is not as hostagent writes it and is not followed",)
    return home, ()


def _is_time(text: str) -> bool:
    try:
        return not text or bool(datetime.fromisoformat(text))
    except ValueError:
        return False


def _short(text: str) -> str:
    """Somebody else's text, so that a sentence can hold it."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
