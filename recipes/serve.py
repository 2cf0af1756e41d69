"""vLLM's server for a run in server mode, so that engine and trainer stand on different GPUs (docs/SERVER.md).

    CUDA_VISIBLE_DEVICES=0 python recipes/serve.py --config recipes/configs/qwen2_5_vl_3b/emoset_emo_r3.yaml
    CUDA_VISIBLE_DEVICES=1 python recipes/grpo.py --config recipes/configs/qwen2_5_vl_3b/emoset_emo_r3.yaml \
        --vllm_mode server --vllm_enable_sleep_mode false

The server reads model, type, context and GPUs of the engine from the run's YAML. What stands after '--' goes to vLLM as
it is (`-- --gpu-memory-utilization 0.8`). Whoever reaches its port can replace its weights: it listens to this machine
alone unless --vllm_server_host says otherwise.
"""

import argparse
import os
import sys

from emor3_trl.engines.serving import run_dtype, serve_command, serve_environment
from emor3_trl.files import read_mapping
from emor3_trl.run.checks import check_secrets
from emor3_trl.run.recipe import UserError, run_recipe, user_errors

HOST = "127.0.0.1"
READ = (
    "model_name_or_path",
    "dtype",
    "bf16",
    "fp16",
    "vllm_server_host",
    "vllm_server_port",
    "vllm_max_model_length",
    "vllm_tensor_parallel_size",
)


def main() -> None:
    """Parse, say what starts, become the server."""
    call, further = _split_call(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", help="YAML of the run")
    parser.add_argument("--model_name_or_path", help="the model that the run starts from")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16; by default, what the run computes in")
    parser.add_argument("--vllm_server_host", help=f"address to listen at (default: {HOST})")
    parser.add_argument("--vllm_server_port", type=int, help="port (default: 8000)")
    parser.add_argument("--vllm_max_model_length", type=int, help="longest prompt with its completion, in tokens")
    parser.add_argument("--vllm_tensor_parallel_size", type=int, help="GPUs that hold the model together (default: 1)")
    given = {name: value for name, value in vars(parser.parse_args(call)).items() if value is not None}
    with user_errors():
        check_secrets(sys.argv[1:], instead="Set the environment variable VLLM_API_KEY or HF_TOKEN.")
        config = read_mapping(given.pop("config"), "Give the YAML of a run.") if "config" in given else {}
        if "dtype" in given:
            config |= {"bf16": False, "fp16": False}
        values = {name: config[name] for name in READ if name in config} | given
        if not values.get("model_name_or_path"):
            raise UserError("No model is given. Set --config <the run's YAML>, or --model_name_or_path.")
        command = serve_command(
            values["model_name_or_path"],
            host=values.get("vllm_server_host") or HOST,
            port=values.get("vllm_server_port") or 8000,
            dtype=run_dtype(values),
            max_model_len=values.get("vllm_max_model_length"),
            ranks=values.get("vllm_tensor_parallel_size") or 1,
            further=further,
        )
    print(f"Serving {values['model_name_or_path']} in {run_dtype(values)}", flush=True)
    os.execve(command[0], command, serve_environment())


def _split_call(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the recipe's arguments, and those of vLLM behind '--'."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


if __name__ == "__main__":
    run_recipe(main)
