"""What five guides show of chains, groups, chords and callbacks, as they show it; and it does what they say."""

from __future__ import annotations

from typing import Any

import pytest

from dray import ArgumentsError, Dray, chain, chord, group, shared_task, signature
from dray.testing import Driver


def declare(app: Dray, *names: str, **results: Any) -> list[Any]:
    """Declare tasks that say what they were given."""
    made = []
    for name in names:

        def run(*args: Any, name: str = name) -> Any:
            return f"{name}({', '.join(map(str, args))})"

        made.append(app.task(name=name)(run))
    return made


def test_a_chain_of_sums(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task
    def add(x: int, y: int) -> int:
        return x + y

    result = chain(add.s(2, 2), add.s(4), add.s(8))()
    job = group([add.s(2, 2), add.s(4, 4), add.s(8, 8)])
    sums = job.apply_async()
    dray_worker.run_until_idle()
    assert result.get() == 16
    assert sums.get(timeout=10) == [4, 8, 16]


def test_three_steps(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task
    def step_one(data: str) -> str:
        return f"{data} -> step1"

    @dray_app.task
    def step_two(data: str) -> str:
        return f"{data} -> step2"

    @dray_app.task
    def step_three(data: str) -> str:
        return f"{data} -> step3"

    workflow = chain(step_one.s("start"), step_two.s(), step_three.s())
    result = workflow.apply_async()
    dray_worker.run_until_idle()
    assert result.get() == "start -> step1 -> step2 -> step3"
    assert dray_app.AsyncResult(result.id).state == "SUCCESS"  # {"workflow_id": result.id}


def test_a_group_and_a_chord_of_generators(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task
    def process_item(item_id: int) -> int:
        return item_id * 2

    @dray_app.task
    def aggregate_results(results: list[int]) -> int:
        return sum(results)

    result = group(process_item.s(i) for i in range(10)).apply_async()
    job = chord((process_item.s(i) for i in range(10)), aggregate_results.s())
    total = job.apply_async()
    workflow = chord([process_item.s(item_id) for item_id in [1, 2, 3]], aggregate_results.s()).apply_async()
    dray_worker.run_until_idle()
    assert result.get(timeout=10) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert total.get() == 90
    assert workflow.get() == 12


def test_a_chord_whose_body_is_given_afterwards(dray_app: Dray, dray_worker: Driver) -> None:
    process_large_dataset, send_email = declare(dray_app, "process_large_dataset", "send_email")
    callback = send_email.si("admin@example.com", "Done", "All tasks complete")
    header = [process_large_dataset.s(i) for i in range(5)]
    result = chord(header)(callback)
    dray_worker.run_until_idle()
    assert result.get() == "send_email(admin@example.com, Done, All tasks complete)"


def test_a_callback_that_cannot_take_the_result_is_refused_with_what_would_work(dray_app: Dray) -> None:
    """As written there, the result would be a fourth argument of three."""

    @dray_app.task(name="tasks.send_email")
    def send_email(to: str, subject: str, body: str) -> None: ...

    @dray_app.task(name="tasks.process_large_dataset")
    def process_large_dataset(data_id: int) -> int:
        return data_id

    with pytest.raises(ArgumentsError, match=r"takes 3 positional arguments and got 4.*send_email\.si\(\.\.\.\)"):
        chain(process_large_dataset.s(7), send_email.s("admin@example.com", "Processing Complete", "Data processed"))()
    with pytest.raises(ArgumentsError, match=r"send_email\.si"):
        chord([process_large_dataset.s(i) for i in range(5)])(send_email.s("admin@example.com", "Done", "All done"))


def test_a_shared_task_that_sends_a_chain_and_returns_its_handle(dray_app: Dray, dray_worker: Driver) -> None:
    process_large_dataset, send_email = declare(dray_app, "process_large_dataset", "send_email")

    @dray_app.task
    def process_and_notify(data_id: int) -> Any:
        return chain(process_large_dataset.s(data_id), send_email.si("admin@example.com", "Processing Complete"))()

    @dray_app.task
    def batch_process_users(user_ids: list[int]) -> str:
        job = group(send_email.s(f"user{uid}@example.com", "Hello", "Message") for uid in user_ids)
        result = job.apply_async()
        return str(result.id)

    handle, batch = process_and_notify.delay(7), batch_process_users.delay([1, 2])
    dray_worker.run_until_idle()
    # What a task returns is stored: of a handle, the id that it stands for.
    assert dray_app.AsyncResult(handle.get()).get() == "send_email(admin@example.com, Processing Complete)"
    assert dray_app.AsyncResult(f"{batch.get()}.1").get() == "send_email(user2@example.com, Hello, Message)"


def test_a_signature_with_callbacks_linked_to_it(dray_app: Dray, dray_worker: Driver) -> None:
    seen: list[Any] = []
    dray_app.task(name="app.tasks.step1")(lambda data: data)
    dray_app.task(name="app.tasks.broken", max_retries=0)(lambda data: 1 // 0)
    dray_app.task(name="app.tasks.step2")(lambda result: seen.append(("step2", result)))
    dray_app.task(name="app.tasks.handle_error")(lambda id: seen.append(("error", id)))
    for step in ("app.tasks.step1", "app.tasks.broken"):
        s = signature(step, args=("data",), app=dray_app)
        s.link(signature("app.tasks.step2", app=dray_app))  # Success callback
        s.link_error(signature("app.tasks.handle_error", app=dray_app))  # Error callback
        result = s.apply_async()
        dray_worker.run_until_idle()
    assert seen == [("step2", "data"), ("error", result.id)]


def test_success_and_error_handlers_of_one_call(dray_app: Dray, dray_worker: Driver) -> None:
    said: list[str] = []

    @dray_app.task(name="send_email_task", max_retries=0)
    def send_email_task(to: str, subject: str, body: str) -> str:
        if "@" not in to:
            raise ValueError("no address")
        return f"sent to {to}"

    @dray_app.task
    def success_handler(result: str) -> None:
        said.append(f"Task succeeded with result: {result}")

    @dray_app.task
    def error_handler(request: Any, exc: Exception, traceback: str) -> None:
        said.append(f"Task {request.id} failed: {exc}")

    for to in ("user@example.com", "nobody"):
        task = send_email_task.apply_async(
            args=[to, "Subject", "Body"], link=success_handler.s(), link_error=error_handler.s()
        )
    dray_worker.run_until_idle()
    assert said == ["Task succeeded with result: sent to user@example.com", f"Task {task.id} failed: no address"]


def test_pipelines_that_are_built_by_what_is_processed(dray_app: Dray, dray_worker: Driver) -> None:
    upload_file, resize_image, compress_image, transcode_video, save_to_cloud = declare(
        dray_app, "upload", "resize", "compress", "transcode", "save"
    )

    def build_processing_pipeline(file_type: str) -> Any:
        if file_type == "image":
            return chain(upload_file.s(), resize_image.s(), compress_image.s(), save_to_cloud.s())
        return chain(upload_file.s(), transcode_video.s(), save_to_cloud.s())

    image = build_processing_pipeline("image").apply_async(("cat.png",))
    video = build_processing_pipeline("video").delay("cat.mp4")
    dray_worker.run_until_idle()
    assert image.get() == "save(compress(resize(upload(cat.png))))"
    assert video.get() == "save(transcode(upload(cat.mp4)))"


def test_a_task_that_goes_one_way_or_the_other(dray_app: Dray, dray_worker: Driver) -> None:
    validate_data, premium_processing, notify, standard_processing = declare(
        dray_app, "validate", "premium", "notify", "standard"
    )

    @dray_app.task
    def process_conditionally(data: dict[str, str]) -> Any:
        if data["type"] == "premium":
            return chain(validate_data.s(data["id"]), premium_processing.s(), notify.s()).apply_async()
        return standard_processing.delay(data["id"])

    results = [process_conditionally.delay({"type": kind, "id": kind[0]}) for kind in ("premium", "free")]
    dray_worker.run_until_idle()
    assert [dray_app.AsyncResult(result.get()).get() for result in results] == [
        "notify(premium(validate(p)))",
        "standard(f)",
    ]


def test_a_job_that_depends_on_another(dray_app: Dray, dray_worker: Driver) -> None:
    process_data, send_email = declare(dray_app, "process_data", "send_email")
    job1 = process_data.apply_async((1,), countdown=1)
    job2 = send_email.apply_async(("user@example.com", "Done", "Processing complete"), depends_on=job1)
    dray_worker.run_until_idle()
    assert job2.state == "PENDING"
    dray_worker.advance(3)
    assert job2.get() == "send_email(user@example.com, Done, Processing complete)"


def test_an_image_in_several_sizes_with_progress_and_cleaning_up(dray_app: Dray, dray_worker: Driver) -> None:
    cleaned: list[str] = []

    @dray_app.task(bind=True)
    def upload(self: Any, path: str) -> str:
        self.update_state(state="PROGRESS", meta={"step": "upload"})
        return path

    @dray_app.task
    def resize(path: str, width: int) -> str:
        return f"{path}@{width}"

    @dray_app.task
    def compress(path: str) -> str:
        return f"{path}.webp"

    @dray_app.task
    def save_urls(paths: list[str]) -> dict[str, str]:
        return {path: f"https://cdn.example.com/{path}" for path in paths}

    @dray_app.task
    def clean_up(*_: Any) -> None:
        cleaned.append("temporary files")

    pipeline = upload.s("cat.png") | group(resize.s(width) | compress.s() for width in (100, 600)) | save_urls.s()
    result = pipeline.apply_async(link=clean_up.s(), link_error=clean_up.s())
    dray_worker.run_until_idle()
    assert list(result.get()) == ["cat.png@100.webp", "cat.png@600.webp"]
    assert cleaned == ["temporary files"]


def test_tasks_of_no_app_go_into_a_canvas_too(dray_app: Dray, dray_worker: Driver) -> None:
    @shared_task(name="guides.shared.double")
    def double(x: int) -> int:
        return 2 * x

    with dray_app.as_current():
        result = chain(double.s(1), double.s(), double.s())()
        dray_worker.run_until_idle()
        assert result.get() == 8
