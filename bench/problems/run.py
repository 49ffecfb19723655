# Runs a program's tests, each in a new namespace, and writes the verdict to file 3. The input is JSON:
# {code, tests: [{before, actual, expected}], secret}.


def main():
    import json
    import os
    import sys

    job = json.loads(sys.stdin.read())
    verdict = os.fdopen(3, "w")
    exit_now = os._exit

    def same(a, b):
        if type(a) is not type(b):
            return {type(a), type(b)} == {int, float} and a == b
        if isinstance(a, (list, tuple)):
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, dict):
            return len(a) == len(b) and all(key in b and same(a[key], b[key]) for key in a)
        return a == b

    def failure(test):
        names = {"__name__": "program"}
        exec(compile(job["code"], "program", "exec"), names)
        exec(test["before"], names)
        expected = test["expected"]
        if expected.startswith("raises "):
            try:
                actual = eval(test["actual"], names)
            except Exception as error:
                wanted = expected[len("raises "):].strip()
                return None if wanted in [one.__name__ for one in type(error).__mro__] else repr(error)
            return f"returned {actual!r}"
        actual = eval(test["actual"], names)
        # Evaluated apart from the program, which may have changed what the names mean.
        return None if same(actual, eval(expected, {"__name__": "expected"})) else f"got {actual!r}"

    passed, why = 0, None
    for test in job["tests"]:
        try:
            why = failure(test)
        except BaseException as error:
            why = repr(error)
        if why is not None:
            why = f"{test['actual']}: {why}"[:300]
            break
        passed += 1
    result = {"secret": job["secret"], "passed": passed} if why is None else {"why": why}
    verdict.write(json.dumps(result, separators=(",", ":")))
    verdict.flush()
    exit_now(0)


main()
