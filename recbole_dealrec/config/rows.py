"""The configuration keys of this package and of RecBole, one row for each."""

from recbole_dealrec.config import kind
from recbole_dealrec.config.key import NOTHING, Idle, Key

ALWAYS = Idle("in a run of this package", lambda values: True)
_SPLIT = Idle("with benchmark_filename, whose files are used as they are", lambda values: values["benchmark_filename"])
_INTERACTIONS_ALONE = Idle(
    "without columns of users or items in load_col",
    lambda values: values["load_col"] is not None and not {"user", "item"} & values["load_col"].keys(),
)
_NOTHING_TO_FILTER = Idle(
    f"{_INTERACTIONS_ALONE.reason}, or with benchmark_filename",
    lambda values: values["benchmark_filename"] or _INTERACTIONS_ALONE.holds(values),
)
_NO_SEQUENCES = Idle(
    "without columns of sequences from benchmark_filename, or of users or items in load_col",
    lambda values: not values["benchmark_filename"] and _INTERACTIONS_ALONE.holds(values),
)
_CHOSEN_COLUMNS = Idle("with load_col, which names all columns", lambda values: values["load_col"] is not None)
_NO_ENTITIES = Idle(
    "with a surrogate_model other than GRU4RecKG and KSR",
    lambda values: values["surrogate_model"] not in ("GRU4RecKG", "KSR"),
)
_NO_TAIL = Idle(
    "without TailPercentage in metrics", lambda values: "tailpercentage" not in str(values["metrics"]).lower()
)
_TRACKED = Idle("with this package, which uses log_with=wandb instead", lambda values: True)
_NO_WANDB = Idle("without wandb in log_with", lambda values: "wandb" not in kind.tracker_names(values["log_with"]))


def _unchecked(step: str, place: str, names: str, idle: Idle | None = None) -> list[Key]:
    """Return rows of keys of RecBole whose values only RecBole checks."""
    return [Key(name, kind.ANY, step, place, idle=idle) for name in names.split()]


_ROWS = [
    # How a run is carried out
    Key("gpu_id", kind.DEVICES, NOTHING, "RecBole"),
    Key("use_gpu", kind.FLAG, NOTHING, "RecBole"),
    Key("worker", kind.COUNT_OR_ZERO, NOTHING, "RecBole"),
    Key("state", kind.LOG_LEVEL, NOTHING, "RecBole"),
    Key("show_progress", kind.FLAG, NOTHING, "RecBole"),
    Key("verbose", kind.FLAG, NOTHING, "overall"),
    Key("data_path", kind.ANY_FOLDER, NOTHING, "RecBole"),
    Key("checkpoint_dir", kind.FOLDER, NOTHING, "overall"),
    Key("loss_decimal_place", kind.COUNT_OR_ZERO, NOTHING, "RecBole"),
    Key("eval_batch_size", kind.COUNT, NOTHING, "models"),
    Key("micro_batch_size", kind.COUNT, NOTHING, "models"),
    Key("tokens_per_batch", kind.COUNT, NOTHING, "models"),
    Key("llm_device_map", kind.or_none(kind.one_of("auto")), NOTHING, "model/BIGRec"),
    Key("log_with", kind.or_none(kind.TRACKERS), NOTHING, "overall"),
    Key("log_wandb", kind.FLAG, NOTHING, "RecBole", idle=_TRACKED),
    Key("wandb_project", kind.TEXT, NOTHING, "RecBole", idle=_NO_WANDB),
    *_unchecked(NOTHING, "RecBole", "save_dataset dataset_save_path save_dataloaders dataloaders_save_path", ALWAYS),
    *_unchecked(NOTHING, "given", "config_file config_files nproc world_size ip port group_offset offset", ALWAYS),
    *_unchecked(NOTHING, "derived", "local_rank", ALWAYS),
    # Data, and keys that affect all steps
    Key("dataset", kind.ANY, "data", "overall"),
    Key("seed", kind.SEED, "data", "overall"),
    Key("reproducibility", kind.FLAG, "data", "RecBole"),
    Key("title_field", kind.TEXT, "data", "overall"),
    Key("samples_per_user", kind.COUNT_OR_ZERO, "data", "overall"),
    Key("selection_part", kind.one_of("none", "user", "time"), "data", "overall"),
    Key("eval_args", kind.EVALUATION, "data", "overall", idle=_SPLIT),
    Key("repeatable", kind.ANY, "data", "overall"),
    Key("field_separator", kind.TEXT, "data", "RecBole"),
    Key("seq_separator", kind.TEXT, "data", "RecBole"),
    Key("USER_ID_FIELD", kind.TEXT, "data", "RecBole"),
    Key("ITEM_ID_FIELD", kind.TEXT, "data", "RecBole"),
    Key("TIME_FIELD", kind.TEXT, "data", "RecBole"),
    Key("LIST_SUFFIX", kind.TEXT, "data", "RecBole"),
    Key("ITEM_LIST_LENGTH_FIELD", kind.TEXT, "data", "RecBole"),
    Key("MAX_ITEM_LIST_LENGTH", kind.COUNT, "data", "RecBole"),
    Key("load_col", kind.or_none(kind.COLUMNS), "data", "overall"),
    Key("unload_col", kind.or_none(kind.COLUMNS), "data", "RecBole", idle=_CHOSEN_COLUMNS),
    Key("benchmark_filename", kind.or_none(kind.FILES), "data", "RecBole"),
    Key("alias_of_user_id", kind.or_none(kind.FILES), "data", "RecBole"),
    Key("alias_of_item_id", kind.or_none(kind.FILES), "data", "RecBole"),
    Key("user_inter_num_interval", kind.or_none(kind.INTERVAL), "data", "RecBole", idle=_SPLIT),
    Key("item_inter_num_interval", kind.or_none(kind.INTERVAL), "data", "RecBole", idle=_SPLIT),
    Key("rm_dup_inter", kind.or_none(kind.one_of("first", "last")), "data", "RecBole", idle=_SPLIT),
    Key("val_interval", kind.or_none(kind.FILTERS), "data", "RecBole", idle=_SPLIT),
    Key("filter_inter_by_user_or_item", kind.FLAG, "data", "RecBole", idle=_NOTHING_TO_FILTER),
    *_unchecked("data", "given", "encoding"),
    *_unchecked("data", "derived", "MODEL_TYPE", ALWAYS),
    *_unchecked("data", "RecBole", "RATING_FIELD LABEL_FIELD NEG_PREFIX POSITION_FIELD threshold transform", ALWAYS),
    *_unchecked("data", "RecBole", "HEAD_ENTITY_ID_FIELD TAIL_ENTITY_ID_FIELD RELATION_ID_FIELD", ALWAYS),
    *_unchecked("data", "RecBole", "ENTITY_ID_FIELD alias_of_entity_id alias_of_relation_id kg_reverse_r", ALWAYS),
    *_unchecked("data", "RecBole", "entity_kg_num_interval relation_kg_num_interval", ALWAYS),
    *_unchecked("data", "RecBole", "unused_col"),
    *_unchecked("data", "RecBole", "seq_len", _NO_SEQUENCES),
    *_unchecked("data", "RecBole", "additional_feat_suffix preload_weight", _NO_ENTITIES),
    *_unchecked("data", "RecBole", "normalize_field normalize_all discretization", _INTERACTIONS_ALONE),
    *_unchecked("data", "RecBole", "numerical_features", _INTERACTIONS_ALONE),
    # Surrogates; surrogate_<key> has the kind of <key>
    Key("surrogate_model", kind.TEXT, "surrogate", "overall"),
    Key("surrogate_epochs", kind.or_auto(kind.COUNT_OR_ZERO), "surrogate", "overall"),
    Key("surrogate_hidden_dropout_prob", kind.RATIO, "surrogate", "overall"),
    Key("surrogate_attn_dropout_prob", kind.RATIO, "surrogate", "overall"),
    Key("surrogate_dropout_prob", kind.RATIO, "surrogate", "overall"),
    # Influence, and the other scores on surrogates
    Key("hessian_solver", kind.one_of("cg", "lissa", "exact"), "influence", "overall"),
    Key("hessian_damping", kind.POSITIVE, "influence", "overall"),
    Key("hessian_samples", kind.COUNT_OR_ZERO, "influence", "overall"),
    Key("lissa_depth", kind.COUNT, "influence", "overall"),
    Key("lissa_scale", kind.POSITIVE, "influence", "overall"),
    Key("lissa_repeats", kind.COUNT, "influence", "overall"),
    Key("lissa_damping", kind.or_none(kind.POSITIVE), "influence", "overall"),
    Key("curvature", kind.one_of("hessian", "gauss_newton"), "influence", "overall"),
    Key("n_surrogates", kind.COUNT, "influence", "overall"),
    Key("influence_parameters", kind.or_none(kind.PATTERNS), "influence", "overall"),
    Key("influence_on", kind.one_of("train", "valid"), "influence", "overall"),
    # The language model before fine-tuning
    Key("model", kind.ANY, "language model", "overall"),
    Key("llm_path", kind.CHECKPOINT, "language model", "model/BIGRec"),
    Key("llm_dtype", kind.one_of("auto", "float32", "bfloat16", "float16"), "language model", "model/BIGRec"),
    Key("llm_quantization", kind.or_none(kind.one_of("4bit", "8bit")), "language model", "model/BIGRec"),
    Key("trust_remote_code", kind.FLAG, "language model", "model/BIGRec"),
    Key("tiny_steps", kind.COUNT, "language model", "llm/tiny"),
    Key("lora_r", kind.COUNT, "language model", "model/BIGRec"),
    Key("lora_alpha", kind.POSITIVE, "language model", "model/BIGRec"),
    Key("lora_dropout", kind.RATIO, "language model", "model/BIGRec"),
    Key("lora_target_modules", kind.NAMES, "language model", "model/BIGRec"),
    Key("prompt_noun", kind.ANY_TEXT, "language model", "model/BIGRec"),
    Key("prompt_verb", kind.ANY_TEXT, "language model", "model/BIGRec"),
    Key("prompt_instruction", kind.ANY_TEXT, "language model", "model/BIGRec"),
    Key("prompt_item", kind.ANY_TEXT, "language model", "model/BIGRec"),
    Key("prompt_input", kind.ANY_TEXT, "language model", "model/BIGRec"),
    Key("prompt_layout", kind.ANY_TEXT, "language model", "model/BIGRec"),
    Key("chat_template", kind.FLAG, "language model", "model/BIGRec"),
    Key("max_history_titles", kind.COUNT, "language model", "model/BIGRec"),
    Key("max_prompt_length", kind.COUNT, "language model", "model/BIGRec"),
    Key("train_on_inputs", kind.FLAG, "language model", "model/BIGRec"),
    Key("semantic_id", kind.one_of("rkmeans", "rqvae"), "language model", "model/TIGER"),
    Key("rqvae_steps", kind.COUNT, "language model", "model/TIGER"),
    Key("text_encoder_path", kind.CHECKPOINT, "language model", "model/TIGER"),
    Key("max_history_items", kind.COUNT, "language model", "model/TIGER"),
    Key("t5_num_layers", kind.COUNT, "language model", "model/TIGER"),
    Key("t5_num_heads", kind.COUNT, "language model", "model/TIGER"),
    Key("t5_d_model", kind.COUNT, "language model", "model/TIGER"),
    Key("t5_d_kv", kind.COUNT, "language model", "model/TIGER"),
    Key("t5_d_ff", kind.COUNT, "language model", "model/TIGER"),
    Key("t5_dropout_rate", kind.RATIO, "language model", "model/TIGER"),
    # Effort of the language model
    Key("effort_parameters", kind.PARAMETERS, "effort", "overall"),
    Key("effort_sample_ratio", kind.SHARE, "effort", "overall"),
    # Selection
    Key("sampler", kind.TEXT, "selection", "overall"),
    Key("selection", kind.or_none(kind.FOLDER), "selection", "overall"),
    Key("n_fewshot", kind.or_auto(kind.COUNT), "selection", "overall"),
    Key("effort_weight", kind.NOT_NEGATIVE, "selection", "overall"),
    Key("n_groups", kind.COUNT, "selection", "overall"),
    Key("hard_prune_ratio", kind.RATIO, "selection", "overall"),
    # Fine-tuning; keys of search and metrics are here because valid_metric can be a metric
    Key("epochs", kind.COUNT_OR_ZERO, "fine-tuning", "models"),
    Key("train_batch_size", kind.COUNT, "fine-tuning", "models"),
    Key("shuffle", kind.FLAG, "fine-tuning", "RecBole"),
    Key("learner", kind.OPTIMISER, "fine-tuning", "models"),
    Key("learning_rate", kind.POSITIVE, "fine-tuning", "models"),
    Key("weight_decay", kind.NOT_NEGATIVE, "fine-tuning", "RecBole"),
    Key("clip_grad_norm", kind.or_none(kind.CLIPPING), "fine-tuning", "RecBole"),
    Key("warmup_steps", kind.COUNT_OR_ZERO, "fine-tuning", "models"),
    Key("mixed_precision", kind.PRECISION, "fine-tuning", "models"),
    Key("valid_metric", kind.TEXT, "fine-tuning", "models"),
    Key("metrics", kind.METRICS, "fine-tuning", "overall"),
    Key("topk", kind.CUTOFFS, "fine-tuning", "overall"),
    Key("metric_decimal_place", kind.COUNT_OR_ZERO, "fine-tuning", "RecBole"),
    Key("eval_step", kind.COUNT_OR_ZERO, "fine-tuning", "RecBole"),
    Key("stopping_step", kind.COUNT_OR_ZERO, "fine-tuning", "models"),
    Key("n_valid", kind.COUNT_OR_ZERO, "fine-tuning", "models"),
    Key("num_beams", kind.COUNT, "fine-tuning", "models"),
    Key("max_new_tokens", kind.or_none(kind.COUNT), "fine-tuning", "model/BIGRec"),
    Key("grounding", kind.one_of("embedding", "trie"), "fine-tuning", "model/BIGRec"),
    Key("scoring", kind.one_of("beam", "exact"), "fine-tuning", "model/TIGER"),
    *_unchecked("fine-tuning", "overall", "train_neg_sample_args", ALWAYS),
    *_unchecked("fine-tuning", "RecBole", "enable_amp enable_scaler require_pow", ALWAYS),
    *_unchecked("fine-tuning", "given", "reg_weight embedding_size loss_type", ALWAYS),
    *_unchecked("fine-tuning", "derived", "valid_metric_bigger", ALWAYS),
    # Evaluation
    Key("grounding_popularity", kind.EXPONENT, "evaluation", "models"),
    Key("grounding_collaborative", kind.EXPONENT, "evaluation", "models"),
    Key("n_test", kind.COUNT_OR_ZERO, "evaluation", "overall"),
    Key("yardsticks", kind.FLAG, NOTHING, "overall"),
    Key("untuned", kind.AUTO_OR_FLAG, NOTHING, "overall"),
    *_unchecked("evaluation", "given", "tail_ratio", _NO_TAIL),
]
KEYS = {key.name: key for key in _ROWS}
# Keys that only RecBole itself sets.
RECBOLE_STATE = frozenset(
    """device single_spec eval_type MODEL_INPUT_TYPE valid_neg_sample_args test_neg_sample_args MASK_INDEX MASK_ITEM_SEQ
    POS_ITEMS NEG_ITEMS CROP_ITEM_SEQ CROP_ITEM_SEQ_LEN INVERSE_ITEM_SEQ REORDER_ITEM_SEQ mask_ratio ft_ratio
    token_num_threshold convert_token_to_onehot double_tower contrast sim tau use_filter""".split()
)
