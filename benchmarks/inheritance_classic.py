"""Record what Python 2.7 does: the last interpreter with classic classes.

    python benchmarks/inheritance_classic.py /path/to/python2.7

writes benchmarks/results/cpython2/inheritance.json. The same file runs inside Python
2.7 with `--probe` (hierarchies as JSON on stdin, their orders on stdout) and with
`--facts`, so it keeps to what both versions understand.
"""

from __future__ import print_function  # noqa: UP010

import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COMMAND = "python benchmarks/inheritance_classic.py /path/to/python2.7"


def lookup_order(pairs):
    """The order in which the last class of the hierarchy is searched, by trying.

    Each class has an attribute with its own name in it. Whose is found first is the
    first of the order; without that attribute the next one shows, and so on.
    """
    classes = {}
    for name, parents in pairs:
        parents = tuple(classes[str(parent)] for parent in parents)
        metaclass = type(parents[0]) if parents else CLASSIC
        classes[str(name)] = metaclass(str(name), parents, {"who": str(name)})
    last, order = classes[str(pairs[-1][0])], []
    while hasattr(last, "who"):
        order.append(last.who)
        del classes[last.who].who
    return order


class Classic:
    """Its type is `classobj` in Python 2."""


CLASSIC = type(Classic)


def facts():
    """What the article shows for Python 2, and its rules one by one."""
    diamond = [["A", []], ["B", ["A"]], ["C", ["A"]], ["D", ["B", "C"]]]

    class A:
        def f(self):
            return "A"

    class B(A):
        pass

    class C(A):
        def f(self):
            return "C"

    class D(B, C):
        pass

    class NewA(object):  # noqa: UP004
        def f(self):
            return "A"

    class NewB(NewA):
        pass

    class NewC(NewA):
        def f(self):
            return "C"

    class NewD(NewB, NewC):
        pass

    return {
        "classic_finds": D().f(),
        "new_style_finds": NewD().f(),
        "classic_order": lookup_order(diamond),
        "new_style_order": [each.__name__ for each in NewD.__mro__],
        "classic_type": type(A).__name__,
        "classic_instance_type": type(A()).__name__,
        "classic_bases": [each.__name__ for each in A.__bases__],
        "new_style_type": type(NewA).__name__,
        "classic_has_mro": hasattr(A, "__mro__"),
    }


def main(python):
    import datetime
    import platform
    import random
    import subprocess

    sys.path.insert(0, os.path.join(ROOT, "code"))
    from underhood.inheritance import random_hierarchy

    def ask(flag, question):
        ran = subprocess.run(
            [python, __file__, flag],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(ran.stdout)

    rng = random.Random(2)
    hierarchies = []
    while len(hierarchies) < 200:
        pairs = list(random_hierarchy(rng, rng.randint(3, 8)).items())
        if len(pairs[-1][1]) > 1:
            hierarchies.append(pairs)
    version = subprocess.run(
        [python, "-c", "import sys; print(sys.version.split()[0])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    orders = ask("--probe", hierarchies)
    recording = {
        "device": " ".join([platform.system(), platform.machine()]),
        "versions": {"python": version},
        "date": datetime.date.today().isoformat(),
        "command": COMMAND,
        "data": {
            "facts": ask("--facts", None),
            "random": list(zip(hierarchies, orders)),  # noqa: B905
        },
    }
    folder = os.path.join(ROOT, "benchmarks", "results", "cpython2")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "inheritance.json"), "w") as file:
        json.dump(recording, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--probe"]:
        print(json.dumps([lookup_order(pairs) for pairs in json.load(sys.stdin)]))
    elif sys.argv[1:] == ["--facts"]:
        print(json.dumps(facts()))
    else:
        main(sys.argv[1])
