from collections import Counter

import torch

from skeleton_llm.metrics import class_reports, confused_pairs

NAMES = ["sit", "stand", "wave", "never done", "never said"]


def test_reports_and_pairs_equal_a_count_by_hand(rng):
    truth = rng.choice([0, 1, 2, 4], 200)
    answer = rng.choice([0, 1, 2, 3], 200)
    counts = Counter(zip(truth.tolist(), answer.tolist(), strict=True))
    matrix = torch.zeros(5, 5, dtype=torch.long)
    for (row, column), number in counts.items():
        matrix[row, column] = number
    for index, report in enumerate(class_reports(matrix, NAMES)):
        clips, said, right = (truth == index).sum(), (answer == index).sum(), counts[index, index]
        assert report[:3] == (NAMES[index], clips, right)
        assert report.accuracy == (right / clips if clips else None)
        assert report.precision == (right / said if said else None)
        wrong = {NAMES[column]: counts[index, column] for column in range(5) if column != index}
        most = max(wrong.values())
        assert report.share == (most / clips if most else None)
        assert wrong[report.most_confused_with] == most if most else report.most_confused_with is None
    pairs = confused_pairs(matrix, NAMES)
    wrong = {(NAMES[row], NAMES[column]): number for (row, column), number in counts.items() if row != column}
    assert {pair[:2]: pair.clips for pair in pairs} == wrong
    assert all(pair.share == pair.clips / (truth == NAMES.index(pair.truth)).sum() for pair in pairs)
    assert [pair.clips for pair in pairs] == sorted(wrong.values(), reverse=True)


def test_of_equal_numbers_the_larger_share_comes_first_and_no_mistakes_make_no_pairs():
    matrix = torch.tensor([[5, 2, 0], [2, 1, 0], [0, 0, 9]])
    assert [pair[:2] for pair in confused_pairs(matrix, NAMES[:3])] == [("stand", "sit"), ("sit", "stand")]
    assert confused_pairs(torch.eye(3, dtype=torch.long), NAMES[:3]) == []
    assert class_reports(matrix, NAMES[:3])[2] == ("wave", 9, 9, 1.0, 1.0, None, None)
