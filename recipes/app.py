"""A page for pictures of your own: drop one, and read the three steps of a model, and of another, as they are written.

    python recipes/app.py                                                          # the demo's models
    python recipes/app.py --model runs/mine --base Qwen/Qwen2.5-VL-3B-Instruct --port 7861

Answers are those of recipes/predict.py --engine transformers. The page is served to this machine alone, sends nothing
elsewhere, and forgets pictures when it ends.
"""

import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from emor3_trl.app.arguments import HOST, AppArguments, check_gradio, choose_port
from emor3_trl.app.asking import AskedModel, Asking
from emor3_trl.checkpoints import check_checkpoint, check_fit, read_token_side
from emor3_trl.demo import default_config
from emor3_trl.engines.opening import open_engine
from emor3_trl.engines.transformers import TransformersEngine
from emor3_trl.evaluation.photos import choose_budget, choose_label_space, find_training_data
from emor3_trl.printing import escape_controls
from emor3_trl.run.command_line import parse_arguments
from emor3_trl.run.recipe import run_recipe, user_errors


def main() -> None:
    """Parse, look at everything, then load the models and serve the page until it is stopped."""
    (args,) = parse_arguments([AppArguments], default_config(__file__), about=__doc__).arguments
    with user_errors():
        check_gradio()
        port = choose_port(args.port)
        paths = name_models(args)
        for path in paths.values():
            check_checkpoint(path, args.base_model)
        contexts = {name: check_fit(path, args.base_model)[1] for name, path in paths.items()}
        training = find_training_data(args.model)
        space = choose_label_space(args, training)
        budget = choose_budget(args, training, read_token_side(args.model, args.base_model))
    asking = Asking(budget, args.prompt_style, args.max_tokens)
    for signal_number in (signal.SIGTERM, signal.SIGHUP):  # ended, and its terminal closed
        if signal.getsignal(signal_number) is not signal.SIG_IGN:  # nohup
            signal.signal(signal_number, end_process)
    with ExitStack() as stack:
        # Gradio keeps what is dropped on the page in a folder of its own
        os.environ["GRADIO_TEMP_DIR"] = stack.enter_context(TemporaryDirectory(prefix="emor3-app-"))
        models = []
        for (name, path), role in zip(paths.items(), ("trained", "base"), strict=False):
            print(escape_controls(f"Loading {path}"), flush=True)
            load = {"base_model": args.base_model, "engine": "transformers", "dtype": args.dtype}
            engine = stack.enter_context(open_engine(path, **load))
            assert isinstance(engine, TransformersEngine)
            models.append(AskedModel(name, role, engine, contexts[name]))

        from emor3_trl.app.page import build_page, serve_page  # with Gradio, which takes seconds to import

        serve_page(build_page(models, space, asking), port)
        print(f"The page is at http://{HOST}:{port} (Ctrl+C ends it)", flush=True)
        threading.Event().wait()


def name_models(args: AppArguments) -> dict[str, str]:
    """Return the path of each model by what the page calls it: its folder's name, or its path where two share one.

    Raises:
        ValueError: if both are the same.
    """
    paths = [path for path in (args.model, args.base) if path]
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"base is '{args.base}', which is the model itself. Name another one, or leave --base out.")
    names = [Path(path).name for path in paths]
    return dict(zip(names if len(set(names)) == len(names) else paths, paths, strict=True))


def end_process(*_: object) -> None:
    """End as after an interrupt, so that the pictures are deleted."""
    raise SystemExit(0)


if __name__ == "__main__":
    run_recipe(main)
