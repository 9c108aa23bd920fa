# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of an instance: documents in CouchDB, contents under fs.url, the check of one against the other."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import mimetypes
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from ..web import CHUNK, BodyError, Request, Response
from .answers import ApiError, jsonapi, now
from .core import Stack

ROOT, TRASH = "io.cozy.files.root-dir", "io.cozy.files.trash-dir"
DOCTYPE = "io.cozy.files"
# the stack's own index documents, which disk-usage counts as files documents
INDEX_DOCS = 11
FOLDERS = {"fr": ("Administratif", "Photos"), "en": ("Administrative", "Photos")}
HIDDEN = (".cozy_trash", ".cozy_apps", ".cozy_konnectors", ".thumbs", ".cozy_versions")

Doc = dict[str, Any]


def database(doc: Doc) -> str:
    return f"{doc['prefix']}/io-cozy-files"


def words(error: OSError, verb: str, path: Path) -> str:
    """An error of the file system as Go words it."""
    return f"{verb} {path}: {(error.strerror or '').lower()}"


def make_root(stack: Stack, instance: Doc) -> None:
    stamp = now()
    root = {"_id": ROOT, "type": "directory", "created_at": stamp, "updated_at": stamp, "path": "/"}
    stack.couch.put(database(instance), root)


def make_tree(stack: Stack, instance: Doc) -> None:
    """The folder on disk, the trash and the first folders. Raises ApiError 500 when the volume refuses."""
    folder = stack.folder(instance["domain"])
    try:
        folder.mkdir(mode=0o755)
        (folder / ".cozy_trash").mkdir(mode=0o755)
    except OSError as error:
        raise ApiError(500, words(error, "mkdir", folder)) from error
    add_folder(stack, instance, "/", ".cozy_trash", ROOT, TRASH)
    for name in FOLDERS.get(instance["locale"], FOLDERS["en"]):
        (folder / name).mkdir(mode=0o755)
        add_folder(stack, instance, "/", name, ROOT)


def add_folder(stack: Stack, instance: Doc, parent: str, name: str, parent_id: str, doc_id: str = "") -> Doc:
    stamp = now()
    doc: Doc = {"_id": doc_id} if doc_id else {}
    doc |= {"type": "directory", "name": name, "dir_id": parent_id, "created_at": stamp, "updated_at": stamp}
    doc["path"] = parent.rstrip("/") + "/" + name
    stack.couch.put(database(instance), doc)
    return doc


def load(stack: Stack, instance: Doc, doc_id: str) -> Doc:
    found = stack.couch.get(database(instance), doc_id)
    if found is None:
        raise ApiError(404, "file does not exist")
    return found


def path_of(stack: Stack, instance: Doc, doc: Doc) -> Path:
    """Where a file or folder lies on disk."""
    if doc["type"] == "directory":
        inner = str(doc["path"])
    else:
        inner = f"{load(stack, instance, doc['dir_id'])['path']}/{doc['name']}"
    return stack.folder(instance["domain"]) / inner.lstrip("/")


def used(stack: Stack, instance: Doc) -> int:
    """Bytes used by files."""
    return sum(int(doc.get("size", 0)) for doc in stack.couch.docs(database(instance)))


def kind_of(mime: str) -> str:
    start = mime.partition("/")[0]
    if start in ("text", "image", "audio", "video"):
        return start
    return {"application/pdf": "pdf", "application/zip": "zip"}.get(mime, "files")


def resource(doc: Doc, references: list[Any] | None = None) -> Doc:
    """A file as the files API shows it."""
    shown = {key: value for key, value in doc.items() if not key.startswith("_")}
    self_link = f"/files/{doc['_id']}"
    relations = {
        "parent": {
            "links": {"related": f"/files/{doc.get('dir_id')}"},
            "data": {"id": doc.get("dir_id"), "type": DOCTYPE},
        },
        "referenced_by": {"links": {"self": f"{self_link}/relationships/references"}, "data": references},
    }
    return {
        "type": DOCTYPE,
        "id": doc["_id"],
        "attributes": shown,
        "meta": {"rev": doc["_rev"]},
        "links": {"self": self_link},
        "relationships": relations,
    }


def folder_answer(stack: Stack, instance: Doc, doc: Doc) -> Response:
    """A folder and what is in it."""
    self_link = f"/files/{doc['_id']}"
    children = [
        child
        for child in stack.couch.docs(database(instance))
        if child.get("dir_id") == doc["_id"] and child["_id"] != TRASH
    ]
    data = resource(doc)
    relations: Doc = {
        "contents": {
            "links": {"self": f"{self_link}/relationships/contents"},
            "meta": {"count": len(children)},
            "data": [{"id": child["_id"], "type": DOCTYPE} for child in children],
        },
        "not_synchronized_on": {"links": {"self": f"{self_link}/relationships/not_synchronized_on"}, "data": None},
        "parent": data["relationships"]["parent"] if doc.get("dir_id") else {"data": None},
        "referenced_by": data["relationships"]["referenced_by"],
    }
    data["relationships"] = relations
    answer: Doc = {"data": data, "links": {}}
    if children:
        answer["included"] = [resource(child) for child in children]
    return jsonapi(answer)


def get(stack: Stack, instance: Doc, doc_id: str) -> Response:
    doc = load(stack, instance, doc_id)
    if doc["type"] == "directory":
        return folder_answer(stack, instance, doc)
    return jsonapi({"data": resource(doc)})


def post(stack: Stack, instance: Doc, parent_id: str, request: Request) -> Response:
    """Create a folder or upload a file into the folder ``parent_id``. Raises ApiError."""
    name, kind = request.first("Name"), request.first("Type")
    if kind not in ("file", "directory"):
        raise ApiError(422, "Invalid document type", "Type")
    if not name or "/" in name or name in (".", "..") or "\0" in name:
        raise ApiError(422, "Invalid filename", "Name")
    parent = load(stack, instance, parent_id)
    siblings = [doc for doc in stack.couch.docs(database(instance)) if doc.get("dir_id") == parent_id]
    if any(doc.get("name") == name for doc in siblings):
        raise ApiError(409, "file already exists")
    target = path_of(stack, instance, parent) / name
    if kind == "directory":
        try:
            target.mkdir(mode=0o755)
        except OSError as error:
            raise ApiError(500, words(error, "mkdir", target)) from error
        return jsonapi({"data": resource(add_folder(stack, instance, parent["path"], name, parent_id))}, 201)
    doc = receive(stack, instance, parent_id, target, request)
    return jsonapi({"data": resource(doc)}, 201)


def receive(stack: Stack, instance: Doc, parent_id: str, target: Path, request: Request) -> Doc:
    """Stream an upload to a temporary file beside its target, check it, then give it its name."""
    quota = int(instance.get("disk_quota") or 0)
    room = quota - used(stack, instance) if quota else None
    too_big = ApiError(413, "The file is too big and exceeds the disk quota")
    if room is not None and int(request.header("Content-Length") or "0") > room:
        raise too_big
    temporary = target.with_name(f"{target.name}{secrets.randbelow(10**9)}")
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        with temporary.open("xb", buffering=0) as file:
            # as the real one makes it; a cut upload stays behind like this
            temporary.chmod(0o755)
            for piece in request.chunks():
                digest.update(piece)
                size += len(piece)
                if room is not None and size > room:
                    raise too_big
                if file.write(piece) != len(piece):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except FileNotFoundError as error:
        raise ApiError(404, words(error, "open", temporary)) from error
    except OSError as error:
        if isinstance(error, ConnectionError):
            temporary.unlink(missing_ok=True)
            raise
        raise ApiError(500, words(error, "open", temporary)) from error
    except (ApiError, BodyError):
        temporary.unlink(missing_ok=True)
        raise
    md5 = base64.b64encode(digest.digest()).decode()
    if request.header("Content-MD5") not in ("", md5):
        temporary.unlink()
        raise ApiError(412, "Invalid hash", "Content-MD5")
    stamp, origin = now(), f"https://{instance['domain']}/"
    mime = request.header("Content-Type").partition(";")[0] or mimetypes.guess_type(target.name)[0]
    doc = {
        "type": "file",
        "name": target.name,
        "dir_id": parent_id,
        "created_at": stamp,
        "updated_at": stamp,
        "size": str(size),
        "md5sum": md5,
        "mime": mime or "application/octet-stream",
        "class": kind_of(mime or ""),
        "executable": request.first("Executable") == "true",
        "trashed": False,
        "encrypted": False,
        "cozyMetadata": {
            "doctypeVersion": "1",
            "metadataVersion": 1,
            "createdAt": stamp,
            "updatedAt": stamp,
            "createdOn": origin,
            "uploadedAt": stamp,
            "uploadedOn": origin,
        },
    }
    stack.couch.put(database(instance), doc)
    temporary.chmod(0o755 if doc["executable"] else 0o644)
    temporary.replace(target)
    return doc


def download(stack: Stack, instance: Doc, doc: Doc, request: Request) -> Response:
    """The content of a file, or one range of it, streamed."""
    path = path_of(stack, instance, doc)
    size = int(doc["size"])
    start, end, status = 0, size - 1, 200
    headers = [
        ("Accept-Ranges", "bytes"),
        ("Etag", f'"{doc["md5sum"]}"'),
        ("Last-Modified", format_datetime(datetime.fromisoformat(doc["updated_at"]).astimezone(UTC), usegmt=True)),
        ("Content-Disposition", f'{"attachment" if request.first("Dl") else "inline"}; filename="{doc["name"]}"'),
    ]
    wanted = request.header("Range").removeprefix("bytes=")
    if wanted and "," not in wanted and size:
        first, _, last = wanted.partition("-")
        start = int(first) if first else max(0, size - int(last))
        end = min(size - 1, int(last)) if first and last else size - 1
        if start > end:
            return Response(416, b"invalid range: failed to overlap\n", headers=[("Content-Range", f"bytes */{size}")])
        status = 206
        headers.append(("Content-Range", f"bytes {start}-{end}/{size}"))
    try:
        file = path.open("rb")
    except OSError as error:
        raise ApiError(404, words(error, "open", path)) from error

    def pieces() -> Iterator[bytes]:
        with file:
            file.seek(start)
            left = end - start + 1
            while left:
                piece = file.read(min(CHUNK, left))
                if not piece:
                    raise BodyError("the file is shorter than its document says")
                left -= len(piece)
                yield piece

    return Response(status, pieces(), doc["mime"], headers, length=end - start + 1)


def by_path(stack: Stack, instance: Doc, path: str) -> Doc:
    docs = stack.couch.docs(database(instance))
    folders = {doc["_id"]: doc["path"] for doc in docs if doc["type"] == "directory"}
    for doc in docs:
        if doc["type"] == "file" and folders.get(doc["dir_id"], "").rstrip("/") + "/" + doc["name"] == path:
            return doc
    raise ApiError(404, "file does not exist")


def trash(stack: Stack, instance: Doc, doc_id: str, owner: str) -> Response:
    """Move a file into the trash."""
    doc = load(stack, instance, doc_id)
    if doc["type"] != "file":
        raise ApiError(500, "double: folders are not trashed by this double")
    source = path_of(stack, instance, doc)
    parent = load(stack, instance, doc["dir_id"])
    stamp = now()
    names = {item.name for item in (stack.folder(instance["domain"]) / ".cozy_trash").iterdir()}
    if doc["name"] in names:
        doc["name"] += f" ({stamp})"
    doc["cozyMetadata"] |= {
        "updatedAt": stamp,
        "trashedAt": stamp,
        "trashedBy": {"kind": "member", "displayName": owner, "domain": instance["domain"]},
    }
    doc |= {"dir_id": TRASH, "restore_path": parent["path"], "trashed": True}
    source.replace(path_of(stack, instance, doc))
    stack.couch.put(database(instance), doc)
    return jsonapi({"data": resource(doc, [])})


def destroy(stack: Stack, instance: Doc, doc_id: str) -> Response:
    """Remove a trashed file for good."""
    doc = load(stack, instance, doc_id)
    if not doc.get("trashed"):
        raise ApiError(400, "File or directory is not in the trash")
    path_of(stack, instance, doc).unlink(missing_ok=True)
    stack.couch.delete(database(instance), doc)
    return Response(204)


def disk_usage(stack: Stack, instance: Doc) -> Doc:
    docs = stack.couch.docs(database(instance))
    files = [doc for doc in docs if doc["type"] == "file"]
    size = sum(int(doc["size"]) for doc in files)
    shown: Doc = {"used": str(size)}
    shown |= {"quota": str(instance["disk_quota"])} if instance.get("disk_quota") else {}
    shown["doc_count"] = len(docs) + INDEX_DOCS
    shown |= {"files": str(size), "versions_count": str(len(files))} if files else {}
    return shown


def fsck(stack: Stack, instance: Doc) -> Iterator[Doc]:
    """Differences between documents and disk, one object each, as /fsck prints them."""
    docs = stack.couch.docs(database(instance))
    ids = {doc["_id"] for doc in docs}
    for doc_id, kind in ((ROOT, "index_missing_root"), (TRASH, "index_missing_trash")):
        if doc_id not in ids:
            yield {"type": kind, "is_file": False, "is_version": False}
    folder = stack.folder(instance["domain"])
    if not folder.is_dir():
        yield {"error": f"lstat {folder}: no such file or directory"}
        return
    paths: dict[Path, Doc] = {}
    parents = {doc["_id"]: doc["path"] for doc in docs if doc["type"] == "directory"}
    for doc in docs:
        if doc["type"] == "directory":
            paths[folder / doc["path"].lstrip("/")] = doc
        elif doc["dir_id"] in parents:
            paths[folder / parents[doc["dir_id"]].lstrip("/") / doc["name"]] = doc
    for path, doc in paths.items():
        if not path.exists():
            is_file = doc["type"] == "file"
            shown = {key: value for key, value in doc.items() if not key.startswith("_")}
            yield {
                "type": "filesystem_missing",
                "file_doc" if is_file else "dir_doc": shown,
                "is_file": is_file,
                "is_version": False,
            }
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path in paths or (inner.parts[0] in HIDDEN and inner.parts[0] != ".cozy_trash"):
            continue
        yield missing_document(path, "/" + str(inner))


def missing_document(path: Path, shown_path: str) -> Doc:
    """What fsck says of something on disk that no document knows."""
    facts = path.stat()
    stamp = datetime.fromtimestamp(facts.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    is_file = path.is_file()
    doc: Doc = {"type": "file" if is_file else "directory", "name": path.name}
    doc |= {"created_at": stamp, "updated_at": stamp, "path": shown_path}
    if is_file:
        mime = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        doc |= {"size": str(facts.st_size), "mime": mime, "class": kind_of(mime)}
        doc["executable"] = bool(facts.st_mode & 0o100)
    doc |= {"is_dir": not is_file, "is_orphan": False, "has_cycle": False}
    return {
        "type": "index_missing",
        "file_doc" if is_file else "dir_doc": doc,
        "is_file": is_file,
        "is_version": False,
    }


def fsck_answer(stack: Stack, instance: Doc) -> Response:
    lines = [json.dumps(found, separators=(",", ":")).encode() + b"\n" for found in fsck(stack, instance)]
    return Response(200, lines, "text/plain; charset=utf-8") if lines else Response(200)
