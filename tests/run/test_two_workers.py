"""Two processes of gloo on the CPU, in fairseq's own wrappers and its own trainer."""

import pytest
import torch
from fairseq.distributed import utils as distributed_utils

from fairseq_distill.checkpoints.safe_load import read_pickled

from ..builders import write_data, write_teacher
from ..criterions.training import accumulate, build_optimizer, build_pair, copy_state, make_batch, scale_gradients
from ..reliability.comparing import find_differences
from . import two_workers
from .two_workers import BACKENDS, BATCHES, GRADIENTS, UPDATES, WORKERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where both workers have written what they found."""
    folder = tmp_path_factory.mktemp("workers")
    write_data(folder / "data")
    write_teacher(folder)
    torch.multiprocessing.spawn(two_workers.work, args=(folder,), nprocs=WORKERS)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """What each worker found."""
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORKERS)]


def test_legacy_ddp_averages_each_type_apart(found):
    """Through half precision 69,887 is infinite, and 0.1000001 is 0.09998."""
    for of_worker in found:
        for name, gradient in of_worker["average"].items():
            assert gradient.dtype == (torch.float16 if name == "half" else torch.float32)
            expected = 2 * torch.tensor(GRADIENTS[name], dtype=torch.float64)  # the mean of once and three times
            torch.testing.assert_close(gradient.double(), expected, rtol=1e-7, atol=0)


def test_where_the_first_worker_fails_the_others_have_its_sentence(found):
    first, second = (of_worker["asked"] for of_worker in found)
    assert first[0] == second[0] == [[1], [2]] and first[3] == second[3] == "again", "they go on in step"
    assert first[1] == ["UserError", "clusters.json was made for other settings"]
    assert second[1] == ["UserError", "the first process of the run stopped: clusters.json was made for other settings"]
    assert first[2][0] == "ZeroDivisionError" and second[2][0] == "UserError" and "ZeroDivisionError" in second[2][1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """State after each update of one process that has all batches of both workers."""
    criterion, student = build_pair(tmp_path_factory.mktemp("alone"))
    optimizer, states = build_optimizer(student), []
    with pytest.MonkeyPatch.context() as patch:
        for update in range(UPDATES):
            optimizer.zero_grad()
            frames = torch.zeros(())
            for worker in range(WORKERS):
                patch.setattr(distributed_utils, "get_global_rank", lambda worker=worker: worker)
                batches = [make_batch(update, worker, number) for number in range(BATCHES)]
                frames += accumulate(criterion, student, update, batches)
            scale_gradients(student, 1 / frames)
            optimizer.step()
            states.append(copy_state(student))
    return states


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_weights_and_multipliers_are_one_processs(found, alone, backend):
    for update, expected in enumerate(alone):
        for of_worker in found:
            state = of_worker["steps"][backend][update]
            assert state.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6, msg=f"{update}: {name}")
    assert abs(float(alone[-1]["size_loss.lambda1"])) > 0.01 and float(alone[-1]["size_loss.lambda2"]) > 0
    moved = alone[-1]["gates.kinds.ffn.log_alpha"] - alone[0]["gates.kinds.ffn.log_alpha"]
    assert moved.abs().max() > 1e-3


def test_fairseqs_trainer_draws_the_same_gates_on_both_workers(found):
    first, second = (of_worker["drawn"] for of_worker in found)
    assert first == second
    assert [len(run) for run in first] == [UPDATES * BATCHES, 2 * BATCHES, 2 * BATCHES, UPDATES * BATCHES]
    assert first[0] == first[1] + first[2] == first[3] and len(set(first[0])) == UPDATES * BATCHES


def test_a_run_on_two_workers_that_was_stopped_ends_as_one_that_was_not(folder, found):
    whole, parts, other = (read_pickled(folder / name / "checkpoint_last.pt") for name in ("whole", "parts", "torch"))
    assert find_differences(whole, parts) == []
    for name, value in whole["model"].items():
        torch.testing.assert_close(other["model"][name], value, rtol=1e-4, atol=1e-5)
    start = read_pickled(folder / "teacher.pt")["model"]["encoder.layers.0.fc1.weight"]
    assert (whole["model"]["encoder.layers.0.fc1.weight"] - start).abs().max() > 1e-4
