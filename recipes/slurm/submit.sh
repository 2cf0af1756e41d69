#!/usr/bin/env bash
# The paper's EMO-R3#, from the data to the table: four jobs, each of which starts when the one before it ended well.
#   recipes/slurm/submit.sh --partition gpu --account mine
# Arguments go to every sbatch. Variables replace a stage's recipe and arguments, and say what trains on how much. The
# configurations are written for 8 processes: for another number, set COLD_START and GRPO (docs/SCALE.md has two nodes).
set -euo pipefail
cd "$(dirname "$0")/../.."

configs=recipes/configs/qwen2_5_vl_3b
read -r -a prepare <<<"${PREPARE:-recipes/prepare_data.py --dataset emoset --hub_id Woleek/EmoSet-118K}"
read -r -a cold_start <<<"${COLD_START:-recipes/cold_start.py --config $configs/emoset_cold_start.yaml}"
read -r -a grpo <<<"${GRPO:-recipes/grpo.py --config $configs/emoset_emo_r3_cold_start.yaml}"
read -r -a evaluate <<<"${EVALUATE:-recipes/evaluate.py --model runs/qwen2_5_vl_3b/emoset_emo_r3_cold_start --data data/emoset}"
accelerate_file=${ACCELERATE_FILE:-recipes/accelerate/zero2.yaml}
nodes=${NODES:-1}
gpus=${GPUS_PER_NODE:-8}
options=("$@")

if ((nodes * gpus != 8)) && [[ -z ${COLD_START:-} || -z ${GRPO:-} ]]; then # refused now, not after the data's hours
    echo "NODES $nodes x GPUS_PER_NODE $gpus is not 8, as the configurations say. Set COLD_START and GRPO, with their" \
        "--processes $((nodes * gpus)); docs/SCALE.md shows how." >&2
    exit 2
fi

# Submits a job after another, and prints its number
submit() {
    local name=$1 after=$2
    shift 2
    sbatch --parsable --job-name="emor3-$name" ${after:+--dependency="afterok:$after"} \
        ${options[@]+"${options[@]}"} "$@"
}

training=(--nodes="$nodes" --gpus-per-node="$gpus" recipes/slurm/train.sbatch "$accelerate_file")
job=$(submit prepare "" recipes/slurm/single.sbatch "${prepare[@]}")
echo "prepare     $job"
job=$(submit cold-start "$job" "${training[@]}" "${cold_start[@]}")
echo "cold start  $job"
job=$(submit grpo "$job" "${training[@]}" "${grpo[@]}")
echo "GRPO        $job"
job=$(submit evaluate "$job" --gpus=1 recipes/slurm/single.sbatch "${evaluate[@]}")
echo "evaluate    $job"
