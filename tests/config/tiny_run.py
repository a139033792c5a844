"""The sizes of the runs that the front doors' tests train and judge, as gin."""

SIZES = """
T5Config.vocab_size = 48
T5Config.emb_dim = 16
T5Config.num_heads = 2
T5Config.head_dim = 8
T5Config.mlp_dim = 16
T5Config.num_encoder_layers = 1
T5Config.num_decoder_layers = 1
T5Config.dtype = "float32"
T5Config.remat = "none"
PrefixSpec.length = 2
TASK_FEATURE_LENGTHS = {"hyper_inputs": 24, "inputs": 6, "targets": 4}
RowFormat.max_shots = 2
BATCH_SIZE = 8
"""
TRAIN = """
TRAIN_STEPS = 2
DROPOUT_RATE = 0.0
TrainConfig.frozen_dtype = "float32"
"""
