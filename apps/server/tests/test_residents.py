"""Several models under a budget: loaded on demand, drained before they go, back where a swap fails, gone when idle."""

from __future__ import annotations

import asyncio
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn

import vlm_runtime
from vlm_models import named_parameters
from vlm_server import Settings
from vlm_server.errors import ApiError
from vlm_server.residents import Residents
from vlm_server.testing import running

HELLO = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}


class Held:
    """Bytes of weights that are loaded, at most at any time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[int, int] = {}
        self.most = 0
        self.loads: list[str] = []
        load, unload = vlm_runtime.load, vlm_runtime.unload

        def loading(name: str, *arguments: object, **options: object) -> tuple:
            self.loads.append(Path(name).name)
            model, processor = load(name, *arguments, **options)
            self.sizes[id(processor)] = sum(value.nbytes for _, value in named_parameters(model))
            self.most = max(self.most, sum(self.sizes.values()))
            return model, processor

        def unloading(processor: object) -> None:
            unload(processor)
            self.sizes.pop(id(processor))

        monkeypatch.setattr(vlm_runtime, "load", loading)
        monkeypatch.setattr(vlm_runtime, "unload", unloading)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.fixture(scope="module")
def names(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three checkpoints of the same size, and one whose weights are cut off."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("a", "b", "c", "broken"):
        shutil.copytree(checkpoint, folder / name)
    for path in (folder / "broken").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1000])
    return [str(folder / name) for name in ("a", "b", "c", "broken")]


@pytest.fixture(scope="module")
def one(names: list[str]) -> int:
    """Bytes of one model, as files and in memory."""
    return max(path.stat().st_size for path in Path(names[0]).glob("*.safetensors"))


def ask(url: str, name: str, **extra: object) -> httpx.Response:
    return httpx.post(f"{url}/generate", json={**HELLO, "model": name, **extra}, timeout=60)


def resident(url: str) -> list[str]:
    return [Path(name).name for name in httpx.get(f"{url}/health").json()["models"]]


def test_the_budget_holds_at_every_moment(names: list[str], one: int, held: Held) -> None:
    budget = int(one * 2.5)
    with running(Settings(max_resident_bytes=budget)) as url:
        for name in [*names[:3], names[1], names[0]]:
            assert ask(url, name).status_code == 200
        assert held.loads == ["a", "b", "c", "a"] and resident(url) == ["a", "b"]
        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda index: ask(url, names[index % 3]), range(24)))
        assert {reply.status_code for reply in replies} == {200}
        assert len(resident(url)) == 2
    assert one * 1.5 < held.most <= budget
    assert held.sizes == {}


def test_a_model_answers_to_the_end_before_it_goes(names: list[str], one: int) -> None:
    with running(Settings(max_resident_bytes=int(one * 1.5))) as url:
        body = {**HELLO, "model": names[0], "max_tokens": 300, "stream": True, "min_p": 0.0}
        with httpx.stream("POST", f"{url}/generate", json=body, timeout=60) as reply, ThreadPoolExecutor(1) as pool:
            lines = reply.iter_lines()
            next(lines)
            other = pool.submit(ask, url, names[1])
            rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]" and "error" not in rest[-2]
            assert other.result().status_code == 200
        assert resident(url) == ["b"]


def test_a_failed_load_brings_back_what_went_for_it(names: list[str], one: int, held: Held) -> None:
    with running(Settings(max_resident_bytes=int(one * 1.5))) as url:
        assert ask(url, names[0]).status_code == 200
        reply = ask(url, names[3])
        assert reply.status_code == 404 and reply.json()["error"]["param"] == "model", reply.text
        assert resident(url) == ["a"] and held.loads[0] == held.loads[-1] == "a"
        loads = len(held.loads)
        assert ask(url, names[0]).status_code == 200 and len(held.loads) == loads
        # what is not there moves nobody
        assert ask(url, names[0] + "-missing").status_code == 404 and resident(url) == ["a"]


def test_pinned_models_stay_and_what_cannot_fit_is_told(names: list[str], one: int) -> None:
    with running(Settings(max_resident_bytes=int(one * 1.5), pinned=(names[0],))) as url:
        assert ask(url, names[0]).status_code == 200
        reply = ask(url, names[1])
        assert reply.status_code == 503 and "unpin" in reply.json()["error"]["message"]
        assert resident(url) == ["a"]
    with running(Settings(max_resident_bytes=one // 2)) as url:
        reply = ask(url, names[0])
        assert reply.status_code == 503 and "budget" in reply.json()["error"]["message"]


def test_idle_models_go_after_their_time(names: list[str], held: Held) -> None:
    with running(Settings(model_ttl=0.4, pinned=(names[1],))) as url:
        for name in names[:2]:
            assert ask(url, name).status_code == 200
        deadline = time.monotonic() + 10
        while resident(url) != ["b"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert resident(url) == ["b"]
        assert ask(url, names[0]).status_code == 200 and held.loads == ["a", "b", "a"]


def test_many_askers_load_a_model_once_and_leaving_askers_release_it(names: list[str], held: Held) -> None:
    async def crowd() -> None:
        residents = Residents(Settings())
        tasks = [asyncio.create_task(residents.acquire(names[0])) for _ in range(12)]
        await asyncio.sleep(0)
        for task in tasks[:4]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        uses = [use for use in done if not isinstance(use, BaseException)]
        assert len(uses) == 8 and held.loads == ["a"] and uses[0].resident.in_use == 8
        for use in uses:
            use.leave()
            use.leave()
        (row,) = residents.pool.residents()
        assert row.leases == 0 and uses[0].resident.in_use == 0
        assert await residents.unload(None) == [names[0]]
        with pytest.raises(ApiError, match="not resident"):
            await residents.unload(names[0])
        await residents.close()

    asyncio.run(crowd())


def test_unloading_what_stays_busy_is_an_error_by_name(names: list[str]) -> None:
    async def hold() -> None:
        residents = Residents(Settings(drain_seconds=0.1))
        use = await residents.acquire(names[0])
        with pytest.raises(ApiError, match="in use") as error:
            await residents.unload(names[0])
        assert error.value.status == 503
        use.leave()
        assert await residents.unload(names[0]) == [names[0]]
        await residents.close()

    asyncio.run(hold())


def test_a_model_that_cannot_be_loaded_at_the_start_is_one_line(
    names: list[str], capsys: pytest.CaptureFixture
) -> None:
    from vlm_server.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["vlm-server", "--model", names[0] + "-missing", "--port", "0"])
        patch.setattr(uvicorn, "run", lambda *a, **k: pytest.fail("the port was opened"))
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert "no such folder" in capsys.readouterr().err
