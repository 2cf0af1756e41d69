"""What becomes of each field that a YAML of recipes/grpo.py can set: it works, is refused, or cannot matter.

`test_fields` fails where a field is missing here, or stands twice, so that a new version of TRL is gone through again.
"""

from typing import Any

# Runs of two steps on the tiny model, without vLLM: every field of a run is read in it, with a value of its own
WORKS: dict[str, dict[str, Any]] = {
    "base": {  # part of each run
        "data": "data", "model_name_or_path": "model", "output_dir": "run", "train_split": "train",
        "num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 6, "max_steps": 2,
        "use_vllm": False, "use_cpu": True, "bf16": False, "report_to": "none", "processes": 1, "logging_steps": 1,
        "overwrite": True, "dtype": "float32",
    },
    "optimizer": {
        "optim": "adamw_torch", "optim_args": "", "lr_scheduler_type": "cosine_with_min_lr", "learning_rate": 1e-4,
        "lr_scheduler_kwargs": {"min_lr": 0.0}, "warmup_steps": 1, "weight_decay": 0.1, "adam_beta1": 0.8,
        "adam_beta2": 0.9, "adam_epsilon": 1e-7, "max_grad_norm": 0.5, "gradient_accumulation_steps": 2,
        "average_tokens_across_devices": False, "gradient_checkpointing": True, "use_cache": True, "seed": 3,
        "gradient_checkpointing_kwargs": {"use_reentrant": False}, "torch_empty_cache_steps": 1, "data_seed": 2,
        "steps_per_generation": 2, "num_train_epochs": 2.0, "save_strategy": "no", "model_revision": "main",
    },
    "evaluation": {
        "eval_strategy": "steps", "eval_split": "validation", "eval_steps": 1, "per_device_eval_batch_size": 4,
        "num_generations_eval": 4, "eval_delay": 1, "eval_on_start": True, "eval_accumulation_steps": 1,
        "prediction_loss_only": True, "eval_do_concat_batches": False, "eval_use_gather_object": True,
        "save_steps": 1, "save_total_limit": 1, "load_best_model_at_end": True, "metric_for_best_model": "loss",
        "greater_is_better": False, "save_only_model": True, "logging_strategy": "steps", "logging_first_step": True,
        "logging_nan_inf_filter": False, "log_on_each_node": False, "include_num_input_tokens_seen": True,
        "log_level": "error", "log_level_replica": "error", "disable_tqdm": True, "run_name": "x",
    },
    "rows": {
        "dataloader_num_workers": 1, "dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True,
        "dataloader_in_order": False, "dataloader_drop_last": True, "dataloader_pin_memory": False,
        "dataloader_multiprocessing_context": "spawn", "accelerator_config": {"split_batches": False},
        "max_samples": 6, "shuffle_dataset": False, "full_determinism": True, "debug": "underflow_overflow",
        "skip_memory_metrics": False, "save_on_each_node": True, "pad_to_multiple_of": 8, "prompt_style": "set",
        "dynamic_sampling": "spread", "dynamic_sampling_tries": 3, "skip_flat_groups": True, "accuracy_truth": "wheel",
    },
    "loss": {
        "loss_type": "sapo", "sapo_temperature_neg": 1.1, "sapo_temperature_pos": 1.2, "beta": 0.1, "delta": 2.0,
        "entropy_coef": 0.01, "use_adaptive_entropy": True, "entropy_coef_min": 0.0, "entropy_coef_max": 0.5,
        "entropy_coef_delta": 0.01, "entropy_target": 0.3, "top_entropy_quantile": 0.5, "scale_rewards": "batch",
        "mask_truncated_completions": True, "multi_objective_aggregation": "normalize_then_sum", "num_iterations": 2,
        "importance_sampling_level": "sequence", "epsilon": 0.1, "epsilon_high": 0.2, "sync_ref_model": True,
        "ref_model_mixup_alpha": 0.5, "ref_model_sync_steps": 1, "disable_dropout": True, "shared_prefix": False,
        "off_policy_mask_threshold": 0.5, "freeze_vision_tower": True, "attn_implementation": "eager",
        "reward_variant": "reference", "lambda1": 0.2, "lambda2": 0.2, "generation_batch_size": 8,
        "overlong_buffer": 2,
    },
    "vespo": {
        "loss_type": "vespo", "vespo_k_pos": 2.5, "vespo_lambda_pos": 2.5, "vespo_k_neg": 2.5,
        "vespo_lambda_neg": 2.5, "temperature": 0.9, "log_completions": True, "log_multimodal": False,
        "num_completions_to_print": 1, "log_unique_prompts": True,
        "log_completions_steps": 2, "ref_model_dtype": "bfloat16", "generation_kwargs": {"do_sample": True},
        "cache_implementation": "static", "chat_template_kwargs": {"enable_thinking": False},
        "rewards": ["accuracy", "coherence", "format"], "reward_weights": [0.8, 0.1, 0.1], "polarity_credit": 0.2,
        "trust_remote_code": True, "model_init_kwargs": {"attn_implementation": "sdpa"},
    },
    "LoRA": {
        "use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": ["all-linear"],
        "use_rslora": True, "use_dora": True, "lora_task_type": "CAUSAL_LM",
        "soft_reflection": "calibrated", "contrastive_consistency": True, "masked_coherence": True,
        "gated_reflection": "unseparated",
    },
}  # fmt: skip

# A value, and words of the reason; on a machine without a GPU, in one process, without network
REFUSED: dict[str, tuple[Any, str]] = {
    "eval_split": ("validation", "eval_strategy"),
    "fp16": (True, "need a GPU"),
    "tf32": (True, "need a GPU"),
    "load_in_4bit": (True, "cannot be trained"),
    "load_in_8bit": (True, "cannot be trained"),
    "bnb_4bit_quant_type": ("fp4", "load_in_4bit is false"),
    "use_bnb_nested_quant": (True, "load_in_4bit is false"),
    "bnb_4bit_quant_storage": ("uint8", "load_in_4bit is false"),
    "lora_target_parameters": (["x"], "use_peft is false"),
    "lora_modules_to_save": (["lm_head"], "use_peft is false"),
    "optim_target_modules": ("all", "galore"),
    "label_smoothing_factor": (0.1, "no labels to smooth"),
    "neftune_noise_alpha": (5.0, "without noise"),
    "torch_compile": (True, "torch_compile"),
    "torch_compile_backend": ("inductor", "torch_compile"),
    "torch_compile_mode": ("default", "torch_compile"),
    "use_liger_kernel": (True, "liger-kernel"),
    "auto_find_batch_size": (True, "auto_find_batch_size"),
    "push_to_hub": (True, "push_to_hub is set, but"),
    "log_completions_hub_repo": ("me/rows", "log_completions is False"),
    "resume_from_checkpoint": ("checkpoint-1", "resumes from the last"),
    "reward_weights": ([1.0], "lambda1"),
    "remove_unused_columns": (True, "remove_unused_columns"),
    "parallelism_config": ({"cp_size": 2}, "expected ParallelismConfig"),
    "fsdp": ("full_shard", "one process"),
    "deepspeed": ("zero.json", "deepspeed"),
    "cast_lm_head_to_fp32": (True, "cast_lm_head_to_fp32"),
    "router_aux_loss_coef": (0.1, "router_aux_loss_coef"),
    "use_transformers_continuous_batching": (True, "continuous"),
    "use_transformers_paged": (True, "continuous"),
    "top_p": (0.9, "restricted"),
    "top_k": (5, "restricted"),
    "min_p": (0.1, "restricted"),
    "repetition_penalty": (1.1, "restricted"),
    "vllm_structured_outputs_regex": ("a", "restricted"),
    "vllm_gpu_memory_utilization": (1.5, "at most 1"),
    "vllm_tensor_parallel_size": (2, "does not divide"),
    "vllm_max_model_length": (0, "1 or more"),
    "vllm_enable_sleep_mode": (True, "need a GPU"),
    "vllm_importance_sampling_mode": ("x", "Expected one of"),
    "vllm_importance_sampling_clip_max": (-1.0, "0 or more"),
    "vllm_importance_sampling_clip_min": (-1.0, "0 or more"),
    "dynamic_sampling_starved": ("x", "Expected one of"),
    "parity_warn": (-1.0, "0 or more"),
    "parity_stop": (-1.0, "0 or more"),
    "parity_patience": (0, "1 or more"),
    "probe_steps": (-1, "0 or more"),
}

_ENGINE = "read where use_vllm is true, as the tests of engines/ do"
_SERVER = "of vllm_mode: server, as tests/engines/test_server.py does"
_SEVERAL = "of several processes, where an accelerate file sets it"
_HUB = "read where push_to_hub is true"
_TRACKIO = "read by trackio alone"
_TRAINER = "read by other trainers than GRPO's"
CANNOT_MATTER = {
    "plan": "nothing runs; tests/run/test_plan.py",
    "vllm_mode": _ENGINE,
    "vllm_model_impl": _ENGINE,
    "vllm_engine_options": _ENGINE,
    "vllm_importance_sampling_correction": _ENGINE,
    "vllm_importance_sampling_cap": "TRL's old name of vllm_importance_sampling_clip_max",
    "use_bias_correction_kl": "read where vLLM's ratio corrects the KL term",
    **dict.fromkeys(("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout"), _SERVER),
    "vllm_group_port": _SERVER,
    **dict.fromkeys(("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"), _SEVERAL),
    **dict.fromkeys(("ddp_static_graph", "ddp_backend", "ddp_timeout", "fsdp_config"), _SEVERAL),
    "ds3_gather_for_generation": "read under ZeRO-3",
    "local_rank": "set by the launcher",
    **dict.fromkeys(("hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"), _HUB),
    **dict.fromkeys(("hub_always_push", "hub_revision"), _HUB),
    **dict.fromkeys(("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), _TRACKIO),
    "liger_kernel_config": "read where use_liger_kernel is true",
    "transformers_continuous_batching_config": "read where use_transformers_continuous_batching is true",
    "max_tool_calling_iterations": "read where a Python user passes tools",
    "bf16_full_eval": "read outside training, where the recipe does not evaluate",
    "fp16_full_eval": "read outside training, where the recipe does not evaluate",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "read by Transformers' example scripts"),
    **dict.fromkeys(("label_names", "include_for_metrics", "batch_eval_metrics"), _TRAINER),
    **dict.fromkeys(("train_sampling_strategy", "length_column_name"), "GRPO's own sampler draws the groups"),
    "ignore_data_skip": "read where a run resumes",
    "restore_callback_states_from_checkpoint": "read where a run resumes",
    "enable_jit_checkpoint": "read on a signal of a cluster, on which the recipe saves by itself",
}
