"""The seed's published figures, its tables 1 to 3.

Zhou Ping 2022, 基于多模态深度学习的音乐情感分类算法, 2095-2163(2022)09-0110-05.
"""

from moodfuse.evaluate.report.published import Published, PublishedScore

SEED = Published(
    name="seed",
    citation="Zhou Ping 2022, 基于多模态深度学习的音乐情感分类算法, 2095-2163(2022)09-0110-05, tables 1 to 3",
    clips=503,
    classes=("excited", "fear", "neutral", "relaxation", "sad", "tension"),
    networks={
        ("onedmcnn", "adam"): PublishedScore(0.45, 0.41, 0.76),
        ("twodmcnn", "adam"): PublishedScore(0.65, 0.65, 0.92),
        ("c3d", "adam"): PublishedScore(0.64, 0.64, 0.90),
        ("i3d", "adam"): PublishedScore(0.66, 0.66, 0.90),
        ("onedmcnn", "sgd"): PublishedScore(0.42, 0.37, 0.73),
        ("twodmcnn", "sgd"): PublishedScore(0.73, 0.72, 0.93),
        ("c3d", "sgd"): PublishedScore(0.64, 0.64, 0.89),
        ("i3d", "sgd"): PublishedScore(0.60, 0.59, 0.88),
    },
    optimizers={
        "seed-adam": {"onedmcnn": "adam", "twodmcnn": "adam", "c3d": "adam", "i3d": "adam"},
        "seed-sgd": {"onedmcnn": "sgd", "twodmcnn": "sgd", "c3d": "sgd", "i3d": "sgd"},
        "seed": {"onedmcnn": "adam", "twodmcnn": "sgd", "c3d": "sgd", "i3d": "adam"},
    },
    fusions={
        ("c3d", "onedmcnn"): PublishedScore(0.73, 0.70, 0.92),
        ("i3d", "onedmcnn"): PublishedScore(0.70, 0.69, 0.93),
        ("c3d", "twodmcnn"): PublishedScore(0.85, 0.84, 0.98),
        ("i3d", "twodmcnn"): PublishedScore(0.84, 0.84, 0.98),
        ("c3d", "i3d", "onedmcnn", "twodmcnn"): PublishedScore(0.86, 0.88, 0.99),
    },
    matrix_of=("c3d", "i3d", "onedmcnn", "twodmcnn"),
    matrix=(
        (72, 3, 7, 0, 5, 0),
        (4, 68, 6, 3, 0, 0),
        (2, 3, 69, 3, 4, 0),
        (2, 1, 3, 85, 7, 1),
        (3, 1, 8, 7, 63, 3),
        (2, 1, 1, 1, 3, 62),
    ),
    head="softmax",
    level="embedding",
    fuse_options="--combine seed --head softmax --level embedding",
    caveats=("the seed tuned its networks before its cross-validation, not inside it",),
)
