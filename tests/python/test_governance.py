"""docs/governance.md is true: its statements are run in their order on a new server, and the answers in it are the server's.

With LAZARET_UPDATE_DOCS=1 the answers are written into it, to be read before they are committed."""

import os
import re
import subprocess

import support

DOCUMENT = support.ROOT / "docs" / "governance.md"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PASSWORD = re.compile(r"CREATE USER (\w+) PASSWORD '([^']+)'")


def test_every_statement_and_every_answer(oidc, tmp_path):
    text = DOCUMENT.read_text()
    passwords = dict(PASSWORD.findall(text)) | {"admin": support.ADMIN_PASSWORD}
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) > 25, "the document is read"
    section = oidc.section.replace('name = "hospital"', 'name = "health"')
    answers, written, wrong = [], [], []
    with support.serving(tmp_path / "server", config=section) as server:

        def lazaret(arguments, user):
            env = {key: value for key, value in os.environ.items() if not key.startswith("LAZARET_")}
            env |= {"LAZARET_PASSWORD": passwords[user], "LAZARET_URL": server.url}
            command = [support.binary(), *arguments, "--user", user]
            return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60)

        previous = ""
        for block in blocks:
            kind, info, body = block.groups()
            words = info.split()
            user = next((word.removeprefix("user=") for word in words if word.startswith("user=")), "admin")
            if kind == "sql":
                done = lazaret(["sql", "-c", body], user)
                assert done.returncode == 0, f"{body}\n{done.stderr}"
            elif kind == "toml":
                (tmp_path / "policies.toml").write_text(body)
                continue
            elif kind == "sh":
                (line,) = body.splitlines()
                program, *arguments = line.split()
                assert program == "lazaret"
                done = lazaret(arguments, user)
                assert (done.returncode == 1) == ("fails" in words) and done.returncode < 2, f"{body}\n{done.stdout}{done.stderr}"
            else:
                assert kind == "text"
                written.append((block.start(3), block.end(3)))
                answers.append(previous)
                if body != previous:
                    wrong.append(f"in the document:\n{body}\nthe server's:\n{previous}")
                continue
            previous = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines() if line != "OK")
    if "LAZARET_UPDATE_DOCS" in os.environ:
        for (start, end), answer in reversed(list(zip(written, answers))):
            text = text[:start] + answer + text[end:]
        DOCUMENT.write_text(text)
    else:
        assert not wrong, "\n".join(wrong)
