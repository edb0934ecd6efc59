"""The trained encoder as a HookedEncoder: certified, with the logits of transformers."""

from __future__ import annotations

import torch

import tw_lens as tw
from tests.antiberty import pretrained, residues
from tests.hooked.test_encoder import encoder


def test_certified_as_a_hooked_encoder():
    from transformer_lens.loading_from_pretrained import convert_bert_weights

    bert = pretrained("BertForPreTraining")
    sizes = bert.config
    model = encoder(
        n_layers=sizes.num_hidden_layers,
        d_model=sizes.hidden_size,
        n_heads=sizes.num_attention_heads,
        d_head=sizes.hidden_size // sizes.num_attention_heads,
        d_mlp=sizes.intermediate_size,
        n_ctx=sizes.max_position_embeddings,
        d_vocab=sizes.vocab_size,
        eps=sizes.layer_norm_eps,
    )
    model.load_state_dict(convert_bert_weights(bert, model.cfg), strict=False)
    assert tw.check(model, residues()).max_rel_error < 1e-5
    with torch.no_grad():
        theirs = bert(residues()[None]).prediction_logits
        torch.testing.assert_close(model(residues()[None]), theirs, atol=1e-4, rtol=0)
