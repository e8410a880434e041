"""Subjects in the names of cases: frames, sessions and sides of one person must be on the same side of a fold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medhybrid.draft.words import parts_named

SUBJECT_WORD = re.compile(
    r"(?<![a-z0-9])"
    r"(sub-[a-z0-9]+|sub_[a-z]*\d[a-z0-9]*|\d{3}_s_\d{4}|(?:patient|subject|subj|sub|pat|pt)[\-_ ]?\d+)(?![a-z0-9])",
    re.IGNORECASE,
)
"""A subject that names itself as such, for example `sub-01` in BIDS, `sub_01` or `patient012`."""

VIDEO = re.compile(r"^((?:seq(?:uence)?|video|vid|clip)[\-_ ]?\d+)(?![a-z0-9])", re.IGNORECASE)
"""A name that begins with the number of a video: all its frames are of one subject."""

PLACE = re.compile(r"^(.+?\d)[_\-]\d{2,}[_\-]\d{2,}$")
"""A name that ends in two numbers, as the place of a tile does."""

PART_WORD = re.compile(
    r"^(.+?)(?:[_.\- ]+(?:day|week|month|visit|ses(?:sion)?)[_\-]?\d+)?[_.\- ]*"
    r"(?<![a-z])(?:slice|sl|z|frame|crop|patch|tile|aug)s?[_.\- ]*\d.*$",
    re.IGNORECASE,
)
"""A name with the number of a part of its scan, such as `case01_slice_012`: all parts of a scan are of one subject."""

TILE = re.compile(
    r"^(.+?)[_.\- ]*(?<![a-z])(?:\[?[xd=.\d,]*x=?\d+[_.,\- ]*y=?\d+|r(?:ow)?[_\-]?\d+[_.,\- ]*c(?:ol)?[_\-]?\d+).*$",
    re.IGNORECASE,
)
"""A name with the place of a tile: `slide1 [x=0,y=512,w=512,h=512]`, `slide1_r0_c3`."""

EXPORTED_COPY = re.compile(r"^(.+)_(?:jpe?g|png|bmp|tiff?)\.rf\.\w+$", re.IGNORECASE)
"""A name of Roboflow, which exports several augmented copies of an image: `a_jpg.rf.0123abcd`."""

VISIT = (
    r"ses(?:sion)?[-_]?[^\W_]*|visit\d*|day\d+|week\d+|month\d+|year\d+|tp\d*|time[_\-]?point[_\-]?\d*|time\d*|pre|post|baseline|follow\w*|fu\d*"
    r"|(?:19|20)\d{2}[-_.]?[01]\d[-_.]?[0-3]\d"
    r"|[0-3]?\d[-.][0-3]?\d[-.](?:19|20)\d{2}"
)
"""Words for a visit of a person, and its date."""

SESSION_WORD = re.compile(
    rf"^({VISIT}|v\d{{1,2}}|t\d{{1,2}}|frame\d*|scan\d*|run[-_]?\d*|rep\d*|ed|es|l|r|left|right|lh|rh|a|b|c|\d{{1,3}})$",
    re.IGNORECASE,
)
"""The last part of a name that may tell scans of one person apart."""

SUFFIX = (
    r"[a-flr]|left|right|o[ds]|(?:tp|v|m|visit|month|ses)\d{1,3}|(?:pre|post)(?:op)?|bl|fu\d?|base(?:line)?|follow\w*"
)
"""Side, eye, time point or letter of a visit after the number of a person."""

JOINED = re.compile(rf"^(.*\d)(?:{SUFFIX})$", re.IGNORECASE)
"""A name that ends in one of these: `Image_01L`, `RET002OD`, `ms01tp2`, `P01b`."""

PARTLY_JOINED = re.compile(rf"^(.*?\d)(?:{SUFFIX})?$", re.IGNORECASE)
"""The same, beside names without it: `P01` and `P01b`."""

AUGMENTED = (
    r"orig(?:inal)?|aug(?:mented|mentation)?s?[_\-]?\d*|[hv]?flip(?:ped)?(?:[_\-]?(?:[hvxylr]|lr|ud))?\d*|mirror(?:ed)?"
    r"|horizontal(?:ly)?|vertical(?:ly)?|copy|rot(?:ate[ds]?|ation)?[_\-]?-?\d*|nois[ey]\d*|blur(?:red)?\d*|bright\w*|contrast\d*|elastic\d*|zoom(?:ed)?\d*"
)
"""Words for copies of a scan that were made by augmentation, and for the original."""

COPY_OF_SCAN = re.compile(rf"^(?:(?:{AUGMENTED})[_.\- ]+)*(.+?)(?:[_.\- ]+(?:{AUGMENTED}))*$", re.IGNORECASE)
"""A name with any of these words at its ends: `001_flip`, `aug_2_001`."""

SEQUENCE = r"e[ds]|t[12](?!\d)[^\W_]*|flair|adc|dwi|pd(?!\d)[^\W_]*"
"""Words for a phase of the heart, or a sequence of MR."""

STAGE = (
    r"pre[\-_]?op|post[\-_]?op|vor|nach|avant|apr[eè]s|antes|despu[eé]s|links|rechts|gauche|droite?|arteri\w+|(?:portal)?ven\w+|art|nativ\w*"
    r"|delayed|t\d"
)
"""Words for a stage of treatment, a side, or a phase of contrast, of folders with the same people."""

VISIT_FIRST = re.compile(
    rf"^(?:(?:{VISIT}|{STAGE}|[vm]\d{{1,2}}|(?:visit|scan|ses)[_\-]?\d{{1,2}}|[lr]|left|right|[lr]h|o[ds]|{SEQUENCE})[_.\-]|(?:left|right|pre|post|[lr]h|o[ds])(?=\d))(.+)$",
    re.IGNORECASE,
)
"""A name that begins with the visit, side, phase or sequence: `baseline_001`, `OD_001`, `ED_P1`, `T1_P1`, `left001`."""

DATED = re.compile(rf"^(?:{VISIT})(?![^\W_])", re.IGNORECASE)
"""The last part of a name that is a visit, also with more text: `2018-04-16`, `08-13-2005-NA-PET-CT`."""

FOLLOWED = re.compile(rf"^(.+?)(?:[_.\- ](?:{VISIT}))?$", re.IGNORECASE)
"""A name with or without a visit at its end: `LUNG-1` and `LUNG-1-FU`."""

IDENTIFIER = re.compile(r"\d{3,}$")
"""End of a name that is the number of a person."""

PERSON = re.compile(
    r"(?!visit|scan|ses|day|week|month|tp|time|frame|slice|sl\d|run|rep|fu|v\d|t\d|z\d|tile|patch|crop)"
    r"[^\W\d_]+[\-_]?\d{2,}",
    re.IGNORECASE,
)
"""Identifier of a person after the name of a group: `ID001`."""

HASH = re.compile(r"(?=.*\d)(?=.*[a-f])[0-9a-f]{6,}", re.IGNORECASE)
"""Identifier of a person in hexadecimal digits."""

INNER_IDENTIFIER = re.compile(r"(?=(?:\D*\d){2})\w{4,}")
"""Identifier within a name: `6c613a14b80a8591`, `MRN123`."""

ACRONYM = re.compile(r"[A-Z]{2,5}")
"""Name of a hospital or a kind of tumour before the number of a person: `CHUM-001`, `HGG_012`."""

DATE_AT_END = re.compile(r"^(.+?)[_.\- ](?:19|20)\d\d[_.\-][01]?\d[_.\-][0-3]?\d$")
"""A name that ends in a date with separators: `smith_2019_01_02`."""

VISIT_FOLDER = re.compile(VISIT, re.IGNORECASE)
"""Name of a folder for a visit of all persons, such as `timepoint1`."""

NUMBERED_CASE = re.compile(r"(?:case|patient|pat|subject|subj|sub|p)?[_\-]?\d+", re.IGNORECASE)
"""Number of a case in a group."""

OTHER_GROUP = re.compile(
    r"site|cent(er|re)|hospital|clinic|vendor|scanner|fold|batch|part(?!icipant)|set|group|task|class|grade|stage", re.I
)
"""Words in names of folders that hold several subjects."""

END_OF_GROUP = re.compile(
    r"(?<![a-z])(?:site|cent(?:er|re)|hospital|clinic|vendor|scanner|batch|part|subset|fold|train(?:ing)?|val(?:idation)?)"
    r"[_.\- ]*(?:\d{,2}|[a-z])$",
    re.IGNORECASE,
)
"""End of the name of a group of several subjects: `site1`, `training_batch_2`, `ct_train`."""

RANGE = re.compile(r"\d+\s*(?:-|to|_)\s*\d+", re.IGNORECASE)
"""Name of a folder for a range of cases: `201-400`."""

YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d$")
"""A year at the end of the name of a group."""

MIN_OF_SITE = 5
"""Number of cases in a group without a number in its name from which on it is a site, and not a person with visits."""

MIN_FOLDERS = 3
"""Least number of folders that are taken for subjects."""

EACH_IS_ONE = "each case counts as a subject"
SUBJECT_PATTERN = "data.subject_pattern"

SAME_NUMBERS = (
    "Equal numbers in {n} sites are taken for one person; if they are others, correct the column subject of the table, or "
    f"{SUBJECT_PATTERN}"
)

MIN_PEOPLE = 5
"""Number of groups, such as `training01`, from which on they are taken for people in spite of their names."""

MAX_VIEWS = 4
"""Largest number of words that distinguish the views of a subject."""

MAX_SCANS = 8
"""Largest median number of scans of a subject: more suggest that the rest of the name is that of a group."""


def subject_pattern(names: Sequence[str]) -> tuple[str | None, str]:
    """Return a regular expression for `data.subject_pattern`, or None if each case is a subject; and the reason."""
    found = [SUBJECT_WORD.search(n) for n in names]
    if names and all(found):
        subjects = Counter(m[1].casefold() for m in found if m)
        if 1 < len(subjects) < len(names):
            sites = {n[: m.start()] for n, m in zip(names, found, strict=True) if m}
            are_sites = len(sites) > 1 and all(OTHER_GROUP.search(s) for s in sites)
            more = f". {SAME_NUMBERS.format(n=len(sites))}" if are_sites else ""
            return SUBJECT_WORD.pattern.replace("(?<![a-z0-9])", "(?i)(?<![a-z0-9])", 1), _reason(subjects) + more
        if len(subjects) < len(names):
            return None, f"{EACH_IS_ONE}, although the names are of one: folds need several subjects"
        return None, "by their names, each case is another subject"
    tiles = Counter(m[1] for n in names if (m := PLACE.match(n)))
    are_tiles = len(tiles) > 1 and sum(tiles.values()) == len(names) and min(tiles.values()) > MAX_SCANS
    are_tiles = are_tiles and not any(END_OF_GROUP.search(t) or YEAR.search(t) for t in tiles)
    known = (EXPORTED_COPY, COPY_OF_SCAN, TILE, *([PLACE] if are_tiles else []), VIDEO, PART_WORD, VISIT_FIRST)
    for whole in (*known, DATE_AT_END, JOINED, *([FOLLOWED] if _are_followed(names) else [])):
        if (found_by := _with_pattern(whole, names)) is not None:
            return found_by
    for separator in ("_", "-", "."):
        end = _shared_end(names, separator)
        short = [n.removesuffix(end) for n in names]
        if (groups := _groups(short, separator)) is not None:
            last = f"{re.escape(separator)}[^{re.escape(separator)}]+"
            is_plain = all(separator in n for n in short)
            if is_plain and _groups_of_views(list(groups), separator) is not None:
                above = Counter(n.rsplit(separator, 2)[0] for n in short)
                return f"^(.+){last}{last}{re.escape(end)}$", _reason(above)
            if groups.keys() & {
                g.rsplit(separator, 1)[0] for g in groups if separator in g
            }:  # `1_t2` beside `1_t2_space`
                n_more = min(g.count(separator) for g in groups)
                word = f"[^{re.escape(separator)}]+"
                first = f"^({word}(?:{re.escape(separator)}{word}){{{n_more}}})"
                found_first = Counter(m[1] for n in names if (m := re.search(first, n)))
                if len(found_first) > 1:
                    return first, _reason(found_first)
                continue
            return (f"^(.+){last}" if is_plain else f"^(.+?)(?:{last})?") + f"{re.escape(end)}$", _reason(groups)
    if (found_by := _with_pattern(PARTLY_JOINED, names)) is not None:
        return found_by
    return None, _doubt(names) or _inner_doubt(names) or f"{EACH_IS_ONE}: the names show no subjects with several scans"


def _are_followed(names: Sequence[str]) -> bool:
    """Return whether each name with a visit at its end is that of another name without it."""
    known = set(names)
    first = [m[1] for n in names if (m := FOLLOWED.match(n)) and m[1] != n]
    return bool(first) and known.issuperset(first)


def _with_pattern(whole: re.Pattern[str], names: Sequence[str]) -> tuple[str, str] | None:
    """Return a pattern for subjects and the reason, if all names match and some share their first group; else None.

    What the names share may again be that of a part, as of a visit with several slices: `P01_V1_slice_003`.
    """
    matched = [m for n in names if (m := whole.match(n))]
    groups = [m[1] for m in matched]
    if len(matched) < len(names) or not 1 < len(set(groups)) < len(names):
        return None
    plain = f"(?i){whole.pattern}"
    inner, _ = (None, "") if whole is DATE_AT_END else subject_pattern(sorted(set(groups)))  # before a date is a person
    if inner is not None:
        wanted = [m[1] if (m := re.search(inner, g)) else g for g in groups]
        for pattern in (inner, _composed(whole, inner), _composed(whole, inner.replace("(.+)", "(.+?)"))):
            if [m[1] if (m := re.search(pattern, n)) else n for n in names] == wanted:
                return pattern, _reason(Counter(wanted))
    return plain, _reason(Counter(groups))


def _composed(whole: re.Pattern[str], inner: str) -> str:
    """Return a pattern whose first group is that of `inner` within the first group of `whole`."""
    start = next(m.start() for m in re.finditer(r"\((?!\?)", whole.pattern))
    depth = 0
    for end in range(start, len(whole.pattern)):
        depth += {"(": 1, ")": -1}.get(whole.pattern[end], 0)
        if not depth:
            break
    inside = inner.removeprefix("(?i)").removeprefix("^").removesuffix("$")
    return f"(?i){whole.pattern[:start]}(?:{inside}){whole.pattern[end + 1 :]}"


def _doubt(names: Sequence[str]) -> str:
    """Return a text on names that end in numbers, if these may be slices, or subjects with scans in two groups; or empty."""
    for separator in ("_", "-", "."):
        parts = [n.rsplit(separator, 1) for n in names]
        if all(len(p) == 2 and p[0] for p in parts) and _are_identifiers(parts):
            groups = Counter(p[0] for p in parts)
            person, n = Counter(p[1] for p in parts).most_common(1)[0]
            if _are_kinds(groups) and n > 1:
                pattern = f"{re.escape(separator)}([^{re.escape(separator)}]+)$"
                kinds = " and ".join(sorted(p[0] for p in parts if p[1] == person)[:2])
                return f"{EACH_IS_ONE}. If {person} is one subject in {kinds}, set {SUBJECT_PATTERN} to {pattern}"
        if all(len(p) == 2 and p[0] and p[1].isdecimal() for p in parts):
            groups = Counter(p[0] for p in parts)
            name, most = groups.most_common(1)[0]
            by_number = Counter(p[1] for p in parts)
            if _are_two_kinds(groups) and max(by_number.values()) > 1 and not _are_dates(parts):
                number = by_number.most_common(1)[0][0]
                pattern = f"{re.escape(separator)}([0-9]+)$"
                both = " and ".join(sorted(groups))
                return f"{EACH_IS_ONE}. If {number} is one subject in {both}, set {SUBJECT_PATTERN} to {pattern}"
            if len(groups) > 1 and most > MAX_SCANS:
                pattern = f"^(.+){re.escape(separator)}"
                return f"{EACH_IS_ONE}. If {name} is one subject with {most} images, set {SUBJECT_PATTERN} to {pattern}"
    return ""


def _inner_doubt(names: Sequence[str]) -> str:
    """Return a text on an identifier within the names that some share, as of a patient after that of an image; or empty."""
    fields = [n.split("_") for n in names]
    n_fields = min(map(len, fields), default=0)
    for i in range(1, n_fields):
        found = Counter(f[i] for f in fields)
        are_identifiers = all(INNER_IDENTIFIER.fullmatch(v) and not YEAR.fullmatch(v) for v in found)
        if are_identifiers and 1 < len(found) < len(names) and max(found.values()) <= MAX_SCANS:
            person, most = found.most_common(1)[0]
            pattern = "^" + "[^_]+_" * i + "([^_]+)"
            return f"{EACH_IS_ONE}. If {person} is one subject with {most} scans, set {SUBJECT_PATTERN} to {pattern}"
    return ""


def subjects_of_folders(files: Sequence[Path]) -> list[str] | None:
    """Return a subject for each file: the first folder with a number in its name, such as `17/slice/003.png`.

    A folder of many numbered ones is that of a site. The result is None if not all files have such a folder, or none has
    several files.
    """
    depth = min((len(f.parts) - 1 for f in files), default=0)
    for level in range(1, depth + 1):
        above = [f.parts[:level] for f in files]
        are_numbered = all(
            re.search(r"\d", a[-1])
            and not OTHER_GROUP.search(a[-1])
            and not RANGE.fullmatch(a[-1])
            and not YEAR.fullmatch(a[-1])
            and not VISIT_FOLDER.fullmatch(a[-1])
            for a in above
        )
        if are_numbered and len(set(above)) >= MIN_FOLDERS:
            sites = {a for a in set(above) if _is_site(a, files)}
            of_sites = [f.parts[: level + (a in sites)] for f, a in zip(files, above, strict=True)]
            if len(set(of_sites)) < len(above):
                return _names_of_folders(of_sites)
            if len(set(above)) < len(above):
                return None
    return None


def named_subject_folders(files: Sequence[Path]) -> list[str] | None:
    """Return the subject in the name of a folder of each file (`sub-01`, `patient012`); None if not all have such a folder."""
    depth = min((len(f.parts) - 1 for f in files), default=0)
    for level in range(depth):
        found = [SUBJECT_WORD.search(f.parts[level]) for f in files]
        if all(found) and len({m[1] for m in found if m}) >= MIN_FOLDERS:
            return [m[1].casefold() for m in found if m]
    return None


def _is_site(folder: tuple[str, ...], files: Sequence[Path]) -> bool:
    """Return whether a folder whose name does not end in a number holds more numbers than a person has visits: `GE3T/100`."""
    inside = {
        f.parts[len(folder)] for f in files if f.parts[: len(folder)] == folder and len(f.parts) > len(folder) + 1
    }
    is_person = folder[-1][-1].isdigit() or SUBJECT_WORD.search(folder[-1]) is not None
    return not is_person and len(inside) > MAX_SCANS and all(n.isdecimal() and not DATED.fullmatch(n) for n in inside)


def _names_of_folders(folders: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the last names of folders, with those above them where they are not unique."""
    is_unique = len({f[-1] for f in folders}) == len(set(folders))
    return [f[-1] if is_unique else "_".join(f) for f in folders]


def subjects_of_units(folders: Sequence[Path], patients: Sequence[Sequence[str]]) -> list[Path]:
    """Return the folder of the subject of each folder with a mask; folders of one patient have the same one.

    It is the first folder of the path that is not one of a group of subjects, such as `train` or `siteA`.

    Parameters
    ----------
    patients : sequence
        Identifiers of the patient of each folder in the headers, which may be empty, or the same for all.
    """
    known = [tuple(p) if any(p) else () for p in patients]
    if len(set(known) - {()}) < 2:
        known = [()] * len(known)
    above = {folder.parts[:depth] for folder in folders for depth in range(1, len(folder.parts))}
    groups = {parts for parts in above if _is_group(parts, folders, known)}
    found = []
    for folder in folders:
        depth = 1
        while folder.parts[:depth] in groups:
            depth += 1
        found.append(Path(*folder.parts[:depth]))
    first: dict[tuple[str, ...], Path] = {}
    for subject, patient in zip(found, known, strict=True):
        first.setdefault(patient, subject)
    same = {s: first[p] for s, p in zip(found, known, strict=True) if p}
    return [same.get(s, s) for s in found]


def _is_group(folder: Sequence[str], folders: Sequence[Path], patients: Sequence[Sequence[str]]) -> bool:
    """Return whether a folder holds those of several subjects, by its name, the names in it, or the patients in the headers."""
    inside = [
        (f.parts[len(folder)], p) for f, p in zip(folders, patients, strict=True) if f.parts[: len(folder)] == folder
    ]
    names = {name for name, _ in inside}
    known = {p for _, p in inside if p}
    if len(names) < 2 or (len(known) == 1 and all(p for _, p in inside)):
        return False
    if parts_named(folder[-1]) or OTHER_GROUP.search(folder[-1]) or len(known) > MAX_SCANS:
        return True
    has_number = re.search(r"\d", folder[-1]) is not None
    are_subjects = all(re.search(r"\d", n) and not SESSION_WORD.match(n) for n in names)
    return not has_number and (len(known) > 1 or are_subjects)


def are_coarser(folders: Sequence[str], names: Sequence[str], pattern: str) -> bool:
    """Return whether folders hold several subjects of a pattern each, such as the series of a patient, and divide none."""
    found = [m[1] if (m := re.search(pattern, n)) else n for n in names]
    pairs = set(zip(found, folders, strict=True))
    is_year = all(re.fullmatch(r"(?:19|20)\d\d", f) for f in folders)
    return len(set(folders)) < len(set(found)) == len(pairs) <= MAX_SCANS * len(set(folders)) and not is_year


def _shared_end(names: Sequence[str], separator: str) -> str:
    """Return the last parts that all names have, such as `_T1w`: they distinguish no scans."""
    end = ""
    while True:
        short = [n.removesuffix(end) for n in names]
        ends = {n[n.rfind(separator) :] if n.rfind(separator) > 0 else "" for n in short}
        if len(ends) != 1 or ends == {""} or len(names) < 2:
            return end
        end = ends.pop() + end


def _groups_of_views(names: Sequence[str], separator: str) -> Counter[str] | None:
    """Return the groups of names whose last part is one of a few words: `001_SA` and `001_LA`."""
    groups = _groups(names, separator)
    views = Counter(n.rsplit(separator, 1)[-1] for n in names)
    are_words = len(views) <= MAX_VIEWS and not any(v.isdecimal() for v in views)
    are_visits = len(views) <= MAX_SCANS and all(v.isdecimal() and len(v) <= 2 for v in views)
    is_view = (are_words and min(views.values()) > 1) or (are_visits and max(views.values()) > 1)
    return groups if groups is not None and is_view else None


def _groups(names: Sequence[str], separator: str) -> Counter[str] | None:
    """Return the scans of each subject if the last part of the names distinguishes scans of the same subject.

    A name without the separator is that of a subject (`p1` beside `p1_2`).
    """
    parts = [(n.rsplit(separator, 1) if separator in n else [n, ""]) for n in names]
    if not any(last for _, last in parts) or not all(first for first, _ in parts):
        return None
    groups = Counter(first for first, _ in parts)
    n_alike = Counter(last.casefold() for _, last in parts)
    several = [n for n in groups.values() if n > 1]
    is_repeated = sum(n for n in n_alike.values() if n > 1) >= len(parts) / 2
    n_sessions = sum(not last or bool(SESSION_WORD.match(last) or DATED.match(last)) for _, last in parts)
    is_session = n_sessions >= 0.9 * len(parts)
    if all(YEAR.fullmatch(g) for g in groups):
        return None
    if len(groups) < 2 or not several or sorted(several)[len(several) // 2] > MAX_SCANS:
        return None
    if (len(groups) < MIN_PEOPLE and all(map(END_OF_GROUP.search, groups))) or (
        all(last.isdecimal() for _, last in parts) and _are_two_kinds(groups) and not _are_dates(parts)
    ):
        return None
    if _are_sites(groups, parts) or (_are_kinds(groups) and is_repeated and _are_identifiers(parts)):
        return None
    are_people = all(IDENTIFIER.search(first) or HASH.fullmatch(first) for first, n in groups.items() if n > 1)
    are_numbers = all(IDENTIFIER.fullmatch(last) and not DATED.fullmatch(last) for _, last in parts)
    if are_numbers and all(map(ACRONYM.fullmatch, groups)):
        return None  # `CHUM-001`: a hospital and the number of a person
    if sum(several) < len(parts) / 2:
        # `case_7_000` and one `case_7_001` among many first visits: most names end alike, so that the end separates no cases
        is_alike = n_alike.most_common(1)[0][1] >= len(parts) / 2
        is_visit = all(DATED.match(last) for _, last in parts)
        return groups if len(groups) >= len(parts) / 2 and (is_alike or is_visit or are_people) else None
    return groups if is_repeated or is_session or are_people else None


def _are_sites(groups: Counter[str], parts: Sequence[Sequence[str]]) -> bool:
    """Return whether groups without a number at the end of their names hold numbered cases, as sites do: `utrecht_1`.

    With a word for a case, as in `BIDMC/Case00`, they do. Otherwise, the numbers of a person's scans would begin again in each
    group, and be few.
    """
    numbers = Counter(last.casefold() for _, last in parts)
    if any(g[-1:].isdigit() for g in groups) or not all(NUMBERED_CASE.fullmatch(n) for n in numbers):
        return False
    if not any(n.isdecimal() for n in numbers):
        return True
    if any(re.search(r"\d", g) for g in groups) or _are_dates(parts):
        return False
    several = sorted(n for n in groups.values() if n > 1)
    return len(numbers) == len(parts) or several[len(several) // 2] >= MIN_OF_SITE


def _are_dates(parts: Sequence[Sequence[str]]) -> bool:
    """Return whether names end in the dates of visits, which two persons do not share."""
    dates = [p[-1] for p in parts]
    return len(set(dates)) == len(dates) and all(map(DATED.fullmatch, dates))


def _are_kinds(groups: Counter[str]) -> bool:
    """Return whether names are those of a few kinds, without a number, such as sites and scanners."""
    return 1 < len(groups) < MIN_PEOPLE and not any(re.search(r"\d", name) for name in groups)


def _are_identifiers(parts: Sequence[Sequence[str]]) -> bool:
    """Return whether names end in identifiers of people, and not in the numbers of visits or dates."""
    return not _are_dates(parts) and all(PERSON.fullmatch(p[-1]) and not VISIT_FOLDER.fullmatch(p[-1]) for p in parts)


def _are_two_kinds(groups: Counter[str]) -> bool:
    """Return whether names are those of two kinds of scans, such as CT and MR, and not of two subjects, which have numbers."""
    return len(groups) == 2 and not any(re.search(r"\d", name) for name in groups)


def _reason(groups: Counter[str]) -> str:
    most = max(groups.values())
    return f"{len(groups)} subjects with up to {most} scans each; they stay in one fold"
