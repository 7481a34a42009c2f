"""The plugins that come with Fulgurite, declared in plain strings like anybody's; ``pyproject.toml`` lists them."""

from fulgurite.plugins.registry import Plugin

DYNAMIC_ASYNC = Plugin(
    name="dynamic_async",
    summary="iterate, and train, with workers that come and go, and a certificate that the answer is right",
    paper="Daggitt and Griffin, Dynamic Asynchronous Iterations, JPDC 164, 2022, arXiv:2012.01686",
    components={
        "ConvergenceCertifier": "fulgurite.callbacks.convergence_certifier:ConvergenceCertifier",
        "DynamicAsyncStrategy": "fulgurite.plugins.dynamic_async.strategy:DynamicAsyncStrategy",
        "FaultInjector": "fulgurite.callbacks.fault_injector:FaultInjector",
        "GCN": "fulgurite.models.implicit_gnn.gcn:GCN",
        "GraphChains": "fulgurite.data.graph_chains:GraphChains",
        "ImplicitGNN": "fulgurite.models.implicit_gnn.network:ImplicitGNN",
        "ImplicitNodeClassifier": "fulgurite.models.implicit_gnn.node_classification:ImplicitNodeClassifier",
        "RoutingExperiment": "fulgurite.models.routing:RoutingExperiment",
        "SoftmaxProbe": "fulgurite.models.softmax_probe:SoftmaxProbe",
    },
    strategies={"dynamic_async": "fulgurite.plugins.dynamic_async.strategy:DynamicAsyncStrategy"},
    recipes="fulgurite.recipes.dynamic_async",
    modules=("fulgurite.callbacks", "fulgurite.data", "fulgurite.models", "fulgurite.plugins.dynamic_async"),
    commands="fulgurite.recipes.dynamic_async.commands:main",
)

DYNAMIC_GNN = Plugin(
    name="dynamic_gnn",
    summary="train a dynamic graph network on several processes, cut along time, with the single process's answer",
    paper="Chakaravarthy et al., Efficient Scaling of Dynamic Graph Neural Networks, SC 2021, arXiv:2109.07893",
    components={
        "CDGCN": "fulgurite.models.dynamic_gnn.network:CDGCN",
        "DynamicEdgeClassifier": "fulgurite.models.dynamic_gnn.edge_classification:DynamicEdgeClassifier",
        "DynamicLinkPredictor": "fulgurite.models.dynamic_gnn.link_prediction:DynamicLinkPredictor",
        "DynamicNodeClassifier": "fulgurite.models.dynamic_gnn.node_classification:DynamicNodeClassifier",
        "EvolveGCNH": "fulgurite.models.dynamic_gnn.network:EvolveGCNH",
        "EvolveGCNO": "fulgurite.models.dynamic_gnn.network:EvolveGCNO",
        "GConvGRU": "fulgurite.models.dynamic_gnn.network:GConvGRU",
        "NoGraph": "fulgurite.models.dynamic_gnn.network:NoGraph",
        "SnapshotParallelStrategy": "fulgurite.plugins.snapshot_parallel.strategy:SnapshotParallelStrategy",
        "StaticGCN": "fulgurite.models.dynamic_gnn.network:StaticGCN",
        "TGCN": "fulgurite.models.dynamic_gnn.network:TGCN",
        "TMGCN": "fulgurite.models.dynamic_gnn.network:TMGCN",
        "TemporalGraph": "fulgurite.data.temporal_graph:TemporalGraph",
        "WDGCN": "fulgurite.models.dynamic_gnn.network:WDGCN",
    },
    strategies={
        "snapshot_parallel": "fulgurite.plugins.snapshot_parallel.strategy:SnapshotParallelStrategy",
        "snapshot_parallel_fork": "fulgurite.plugins.snapshot_parallel.strategy:SnapshotParallelStrategy",
        "snapshot_parallel_spawn": "fulgurite.plugins.snapshot_parallel.strategy:SnapshotParallelStrategy",
    },
    recipes="fulgurite.recipes.dynamic_gnn",
    modules=("fulgurite.data", "fulgurite.models", "fulgurite.plugins.snapshot_parallel"),
    commands="fulgurite.recipes.dynamic_gnn.commands:main",
)

REPGRAPH = Plugin(
    name="repgraph",
    summary="long-range context for segmentation and detection from a few learned nodes",
    paper="Yu et al., Representative Graph Neural Network, ECCV 2020, arXiv:2008.05202",
    components={
        "CocoDetectionData": "fulgurite.data.coco_detection:CocoDetectionData",
        "DigitScenes": "fulgurite.data.digit_scenes:DigitScenes",
        "GlobalContext2d": "fulgurite.models.repgraph.global_context:GlobalContext2d",
        "MmsegData": "fulgurite.data.mmseg_data:MmsegData",
        "MmsegSegmenter": "fulgurite.models.segmentation.mmseg_module:MmsegSegmenter",
        "NonLocal2d": "fulgurite.models.repgraph.non_local:NonLocal2d",
        "ObjectDetector": "fulgurite.models.detection.module:ObjectDetector",
        "RepGraph2d": "fulgurite.models.repgraph.layer:RepGraph2d",
        "SegmentationFolder": "fulgurite.data.segmentation_folder:SegmentationFolder",
        "SemanticSegmenter": "fulgurite.models.segmentation.module:SemanticSegmenter",
        "VocDetection": "fulgurite.data.voc_detection:VocDetection",
    },
    recipes="fulgurite.recipes.repgraph",
    modules=("fulgurite.data", "fulgurite.models"),
)

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
