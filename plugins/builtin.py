"""The plugins that come with Fulgurite, declared in plain strings like anybody's; ``pyproject.toml`` lists them."""

from fulgurite.plugins.registry import Plugin

REPRESENTATIVE_INTERPRETATION = Plugin(
    name="representative_interpretation",
    summary="find what a CNN's many similar predictions share",
    paper="Lam et al., Finding Representative Interpretations on CNNs, ICCV 2021, arXiv:2108.06384",
    components={
        "Digits": "fulgurite.data.digits:Digits",
        "ImageClassifier": "fulgurite.models.image_classification.module:ImageClassifier",
        "ImageFolder": "fulgurite.data.image_folder:ImageFolder",
        "MNIST5k": "fulgurite.data.mnist:MNIST5k",
        "RepresentativeInterpretation": (
            "fulgurite.callbacks.representative_interpretation.callback:RepresentativeInterpretation"
        ),
    },
    recipes="fulgurite.recipes.representative_interpretation",
    modules=("fulgurite.callbacks", "fulgurite.data", "fulgurite.models"),
)

SEQPOINT = Plugin(
    name="seqpoint",
    summary="profile an epoch of variable-length training from a handful of representative iterations",
    paper="Pati et al., SeqPoint, ISPASS 2020, arXiv:2007.10459",
    components={
        "SeqPoint": "fulgurite.callbacks.seqpoint.callback:SeqPoint",
        "RandomState": "fulgurite.callbacks.random_state:RandomState",
        "GettextTranslation": "fulgurite.data.gettext_translation:GettextTranslation",
        "SpeechFolder": "fulgurite.data.speech_folder:SpeechFolder",
        "GNMT": "fulgurite.models.translation.rnn:GNMT",
        "TranslationTransformer": "fulgurite.models.translation.transformer:TranslationTransformer",
        "Translator": "fulgurite.models.translation.module:Translator",
        "DeepSpeech2": "fulgurite.models.speech.deepspeech:DeepSpeech2",
        "SpeechRecognizer": "fulgurite.models.speech.module:SpeechRecognizer",
    },
    recipes="fulgurite.recipes.seqpoint",
    modules=("fulgurite.callbacks", "fulgurite.data", "fulgurite.models"),
    commands="fulgurite.recipes.seqpoint.commands:main",
)

SPARSE_NETWORK = Plugin(
    name="sparse_network",
    summary="any acyclic network (pruned, evolved) as one fast trainable layer",
    paper="Gajurel, Louis and Harris, GPU Acceleration of Sparse Neural Networks, 2020, arXiv:2005.04347",
    components={
        "DenseMLP": "fulgurite.models.sparse_network.layered:DenseMLP",
        "GraphChallenge": "fulgurite.callbacks.graph_challenge:GraphChallenge",
        "NeatEvolution": "fulgurite.callbacks.neat_evolution:NeatEvolution",
        "PruneToSparse": "fulgurite.callbacks.prune_to_sparse:PruneToSparse",
        "RadixClassifier": "fulgurite.models.sparse_network.layered:RadixClassifier",
        "ScikitSample": "fulgurite.data.scikit_sample:ScikitSample",
        "SparseClassifier": "fulgurite.models.sparse_network.classifier:SparseClassifier",
        "SparseEvolution": "fulgurite.callbacks.sparse_evolution:SparseEvolution",
        "SparseMLP": "fulgurite.models.sparse_network.layered:SparseMLP",
        "SparseNetwork": "fulgurite.models.sparse_network.network:SparseNetwork",
    },
    recipes="fulgurite.recipes.sparse_network",
    modules=("fulgurite.callbacks", "fulgurite.data", "fulgurite.models"),
)
