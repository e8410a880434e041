"""HTTP interface of `medhybrid serve`.

POST /jobs?model=NAME&name=scan.nii.gz     body: the scan                      202 and the job
POST /jobs?model=NAME&study=UID            a study of the DICOMweb server      202 and the job
GET /jobs/JOB                              state, progress, results
GET /jobs/JOB/events                       the same, as server-sent events, until the job ends
GET /jobs/JOB/files/KIND/FILE              mask, SEG, structured report, tables
DELETE /jobs/JOB                           remove the job with its scan and results
GET /models                                what the models need and give
GET /health, /metrics                      for monitoring
GET /, /openapi.json                       description of the interface
"""

from __future__ import annotations

import asyncio
import ctypes
import hmac
import html
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from medhybrid.errors import OF_MACHINE, ConfigError, MedHybridError
from medhybrid.steps.models import ListedModel
from medhybrid.steps.serve import Jobs, JobStatus, RefusedError
from medhybrid.steps.spool import locked
from medhybrid.version import __version__

logger = logging.getLogger(__name__)

CHUNK_S = 60.0
"""An upload that sends nothing for this many seconds is closed."""

MIN_BYTES_S = 16 << 10
"""Least mean rate of an upload after `CHUNK_S`. Slower ones would hold all places."""

EVENT_S = 0.5

MAX_UPLOADS = 16
"""Simultaneous uploads; more are refused."""

END_S = 5.0
"""Time for the running job to end when the service is stopped."""

RETRY_AFTER = {"Retry-After": "15"}

JOB_NAME = "[0-9a-f]{32}"

JobName = Annotated[str, InPath(pattern=f"^{JOB_NAME}$", description="Name of a job, from POST /jobs.")]


class Accepted(BaseModel):
    """Accepted job."""

    job: str


class Health(BaseModel):
    """Whether the worker that predicts jobs runs."""

    status: str
    version: str


class Problem(BaseModel):
    """Error of a request."""

    detail: str


def make_app(jobs: Jobs, listed: dict[str, ListedModel], *, token: str = "") -> FastAPI:
    """Return the application.

    Parameters
    ----------
    listed : dict
        Description of each model, by the name that clients use.
    token : str
        Token that clients must send (`Authorization: Bearer TOKEN`), except for /health; empty for none.
    """
    stop, state = threading.Event(), _State()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        def work() -> None:
            try:
                jobs.run(stop)
            except KeyboardInterrupt:
                logger.warning("the running job is predicted at the next start")
            except Exception as error:
                state.problem = str(error)
                logger.error("the service cannot predict jobs: %s", error)

        worker = threading.Thread(target=work, name="jobs", daemon=True)
        worker.start()
        yield
        stop.set()
        await run_in_threadpool(_end, worker)

    app = FastAPI(
        title="medhybrid",
        version=__version__,
        description="Segmentation of scans by trained models. For research, not for clinical decisions.",
        docs_url=None,  # these pages load scripts from the internet
        redoc_url=None,
        lifespan=lifespan,
    )

    async def checked(request: Request) -> None:
        sent = request.headers.get("authorization", "")
        if token and not hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "a valid token is needed", {"WWW-Authenticate": "Bearer"})

    needs_token = [Depends(checked)]
    uploads = asyncio.Semaphore(MAX_UPLOADS)
    refusals: dict[int | str, dict[str, Any]] = {c: {"model": Problem} for c in (400, 401, 404, 408, 409, 413, 503)}

    @app.get("/health", responses={503: {"model": Health}})
    def health(response: Response) -> Health:
        """Return whether jobs are predicted."""
        if state.problem:
            response.status_code = 503
        return Health(status=state.problem or "ok", version=__version__)

    @app.get("/metrics", dependencies=needs_token, response_class=PlainTextResponse, responses={401: refusals[401]})
    def metrics() -> str:
        """Return counters in the text format of Prometheus."""
        return _metrics_text(jobs)

    @app.get("/models", dependencies=needs_token, responses={401: refusals[401]})
    def models() -> dict[str, ListedModel]:
        """Return the channels and the labels of each model."""
        return listed

    @app.post("/jobs", status_code=202, dependencies=needs_token, responses=refusals)
    async def submit(
        request: Request,
        model: Annotated[str, Query(max_length=200, description="Name of a model, from GET /models.")],
        name: Annotated[
            str, Query(max_length=1000, description="Name of the uploaded file; only its type is used.")
        ] = "",
        study: Annotated[
            str, Query(max_length=64, description="StudyInstanceUID to fetch, in place of an upload.")
        ] = "",
    ) -> Accepted:
        """Accept a scan: the body is a NIfTI file, or a zip archive of a DICOM series or of several channels."""
        if study:
            with _refusing():
                return Accepted(job=await run_in_threadpool(jobs.submit_study, model, study))
        if uploads.locked():
            raise HTTPException(503, "too many uploads at a time: try again later", RETRY_AFTER)
        async with uploads:
            with _refusing():
                return Accepted(job=await _receive(request, jobs, model, name))

    @app.get("/jobs/{job}", dependencies=needs_token, responses={c: refusals[c] for c in (401, 404)})
    def status(job: JobName) -> JobStatus:
        """Return the state of a job, and its results when it has ended."""
        found = jobs.status(job)
        if found is None:
            raise HTTPException(404, "no such job")
        return found

    @app.get(
        "/jobs/{job}/events",
        dependencies=needs_token,
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **{c: refusals[c] for c in (401, 404)}},
    )
    async def events(job: JobName) -> StreamingResponse:
        """Send the state of a job at each change, until it has ended."""
        if await run_in_threadpool(jobs.status, job) is None:
            raise HTTPException(404, "no such job")

        async def changes() -> AsyncIterator[str]:
            before: JobStatus | None = None
            while not stop.is_set():
                now = await run_in_threadpool(jobs.status, job)
                if now is None:
                    return
                if now != before:
                    yield f"data: {_status_json(now)}\n\n"
                if now.state in ("done", "failed"):
                    return
                before = now
                await asyncio.sleep(EVENT_S)

        return StreamingResponse(changes(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.get(
        "/jobs/{job}/files/{name:path}",
        dependencies=needs_token,
        response_class=FileResponse,
        responses={200: {"content": {"application/octet-stream": {}}}, **{c: refusals[c] for c in (401, 404)}},
    )
    def file(job: JobName, name: Annotated[str, InPath(max_length=1000)]) -> FileResponse:
        """Return a result file, by its name in the job's `files`."""
        path = jobs.file(job, name)
        if path is None:
            raise HTTPException(404, "no such file")
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    @app.delete(
        "/jobs/{job}", status_code=204, dependencies=needs_token, responses={c: refusals[c] for c in (401, 404, 409)}
    )
    def remove(job: JobName) -> None:
        """Remove a job with its scan and results; a running job cannot be removed."""
        if jobs.status(job) is None:
            raise HTTPException(404, "no such job")
        if not jobs.remove(job):
            raise HTTPException(409, "the job is running")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        """Return a description of the interface for people, without scripts."""
        return _page(app.openapi())

    @app.exception_handler(MedHybridError)
    async def explained(_: Request, error: MedHybridError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 400)

    return app


class _State:
    """Reason why no jobs are predicted; empty while they are."""

    problem = ""


def _end(worker: threading.Thread) -> None:
    """Wait for the worker to end; interrupt a job that runs on, like Ctrl-C. It stays in the queue."""
    worker.join(END_S)
    if worker.is_alive() and worker.ident is not None:
        ident, interrupt = ctypes.c_ulong(worker.ident), ctypes.py_object(KeyboardInterrupt)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, interrupt)
        worker.join()


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn a full queue or disk into the status 503."""
    try:
        yield
    except RefusedError as error:
        raise HTTPException(503, str(error), RETRY_AFTER) from error
    except OSError as error:
        if error.errno not in OF_MACHINE:
            raise
        logger.warning("an upload is refused: %s", error)
        raise HTTPException(503, "the disk of the service is full: try again later", RETRY_AFTER) from error


async def _receive(request: Request, jobs: Jobs, model: str, name: str) -> str:
    """Store the body of a request; return the name of its job."""
    limit = jobs.options.max_upload_mb << 20
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limit:
        raise HTTPException(413, f"the upload is larger than {jobs.options.max_upload_mb} MB")
    upload = await run_in_threadpool(jobs.begin, model, name)
    try:
        size, began = 0, time.monotonic()
        stream = request.stream().__aiter__()
        with upload.open("xb") as file:
            while True:
                try:
                    block = await asyncio.wait_for(anext(stream), CHUNK_S)
                except StopAsyncIteration:
                    break
                except TimeoutError as error:
                    raise HTTPException(408, f"nothing was received for {CHUNK_S:g} s") from error
                except ClientDisconnect as error:  # nobody reads the answer
                    raise HTTPException(400, "the upload ended early") from error
                size += len(block)
                spent = time.monotonic() - began
                if spent > CHUNK_S and size < MIN_BYTES_S * spent:
                    raise HTTPException(408, f"the upload is slower than {MIN_BYTES_S >> 10} KiB/s")
                if size > limit:
                    raise HTTPException(413, f"the upload is larger than {jobs.options.max_upload_mb} MB")
                await run_in_threadpool(file.write, block)
        if size == 0:
            raise HTTPException(400, "the upload is empty: send the scan as the body of the request")
        return await run_in_threadpool(jobs.finish, upload)
    except BaseException:
        jobs.cancel(upload)
        raise


def _metrics_text(jobs: Jobs) -> str:
    """Return the state of the service in the text format of Prometheus."""
    numbers, counts = jobs.numbers(), jobs.counts
    lines = ["# HELP medhybrid_jobs Jobs by state.", "# TYPE medhybrid_jobs gauge"]
    lines += [f'medhybrid_jobs{{state="{state}"}} {n}' for state, n in numbers.items()]
    totals = {
        "received": counts.received,
        "done": counts.done,
        "failed": counts.failed,
        "refused": counts.refused,
        "prediction_seconds": round(counts.seconds, 3),
    }
    for name, value in totals.items():
        metric = f"medhybrid_{name}_total" if name == "prediction_seconds" else f"medhybrid_jobs_{name}_total"
        lines += [f"# TYPE {metric} counter", f"{metric} {value}"]
    return "\n".join([*lines, ""])


def _status_json(status: JobStatus) -> str:
    """Return a status as JSON on one line."""
    return json.dumps(status.model_dump(mode="json"))


def _page(description: dict[str, Any]) -> str:
    rows = []
    for path, methods in description["paths"].items():
        for method, details in methods.items():
            asked = ", ".join(p["name"] for p in details.get("parameters", ()) if p["in"] == "query")
            cells = (f"{method.upper()} {path}", asked, details.get("description", details.get("summary", "")))
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    info = description["info"]
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>medhybrid</title>"
        "<style>body{font-family:sans-serif;margin:2em;max-width:60em}td,th{padding:.3em .8em;text-align:left;"
        "border-bottom:1px solid #8888}</style>"
        f"<h1>medhybrid {html.escape(info['version'])}</h1><p>{html.escape(info['description'])}</p>"
        "<table><thead><tr><th>request</th><th>parameters</th><th>purpose</th></tr></thead><tbody>"
        f"{''.join(rows)}</tbody></table><p><a href='openapi.json'>openapi.json</a></p></html>"
    )


def check_start(jobs: Jobs, *, host: str, token: str) -> None:
    """Check that a service may start.

    Raises
    ------
    ConfigError
        If other computers could connect without a token.
    OutputError
        If another service uses the folder of the jobs.
    """
    if not token and not _is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from other computers, and no token is set",
            expected="MEDHYBRID_TOKEN in the environment, or --host 127.0.0.1",
            remedy="export MEDHYBRID_TOKEN=$(openssl rand -hex 32)",
        )
    with locked(jobs.spool):
        pass


def run_server(app: FastAPI, *, host: str, port: int) -> None:
    """Serve the application until interrupted; raise `ConfigError` if the address cannot be used."""
    import uvicorn

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=10,
        limit_concurrency=500,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except SystemExit as error:
        raise ConfigError(f"the address {host}:{port} cannot be used", remedy="choose another --port") from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
