"""The rules for images that a linter of Dockerfiles does not know. `lint` reads Dockerfile.alpine and .dockerignore, `context` the files that a build is given,
`substitute` writes the Dockerfile that is built without a registry, `built` looks at an image, and at what is in it.
"""

import argparse
import json
import pathlib
import re
import sys
import tomllib

DOCKERFILE = "Dockerfile.alpine"
IMAGES = ["broker", "bigquery-adapter", "loadtest"]
# What the images are allowed to run as, and to write to.
USER = "10001:10001"
STATE = "/var/lib/dunlin"
LABELS = ["title", "description", "source", "licenses", "version", "revision", "created", "base.name"]
SECRET_NAME = re.compile(r"pass(word|wd)?$|secret|token|credential|api_?key|private_?key", re.IGNORECASE)
SECRET_FILE = re.compile(r"\.(pem|key|p12|pfx|jks|tfstate)$|(^|/)\.env|(^|/)id_(rsa|ed25519)|credentials.*\.json$|(^|/)users\.txt$", re.IGNORECASE)
# In the text itself: private keys, keys of Google's service accounts, API keys.
SECRET_TEXT = re.compile(
    rb"-----BEGIN (RSA |EC |OPENSSH |ENCRYPTED )?PRIVATE KEY-----\s+[A-Za-z0-9+/]{16}|\"private_key_id\": *\"[0-9a-f]{8}|AIza[0-9A-Za-z_-]{35}"
)

problems: list[str] = []


def problem(text: str) -> None:
    problems.append(text)


class Stage:
    """One FROM with what follows it."""

    def __init__(self, line: int, image: str, name: str | None):
        self.line, self.image, self.name = line, image, name
        self.instructions: list[tuple[int, str, str]] = []

    def all(self, word: str) -> list[tuple[int, str]]:
        return [(line, value) for line, of, value in self.instructions if of == word]

    def last(self, word: str) -> str | None:
        values = self.all(word)
        return values[-1][1] if values else None


def stages(text: str) -> list[Stage]:
    """The stages of a Dockerfile; lines that are continued are joined."""
    found: list[Stage] = []
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not pending:
            start = number
        if line.startswith("#") or not line:
            continue
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        word, _, value = (pending + line).partition(" ")
        pending, value = "", " ".join(value.split())
        if word.upper() == "FROM":
            image = re.fullmatch(r"(?:--platform=\S+ )?(\S+)(?: (?:AS|as) (\S+))?", value)
            if not image:
                problem(f"{DOCKERFILE}:{start}: FROM {value}: not understood")
                continue
            found.append(Stage(start, image[1], image[2]))
        elif found:
            found[-1].instructions.append((start, word.upper(), value))
        else:
            problem(f"{DOCKERFILE}:{start}: {word} before the first FROM: a base image that can be changed by an argument is not pinned")
    return found


def chain(found: list[Stage], name: str) -> list[Stage]:
    """The stage and those it is made from, the first one first."""
    by_name = {stage.name: stage for stage in found}
    stage, result = by_name.get(name), []
    while stage:
        result.insert(0, stage)
        stage = by_name.get(stage.image)
    return result


def lint(root: pathlib.Path) -> None:
    found = stages((root / DOCKERFILE).read_text())
    names = [stage.name for stage in found]
    for stage in found:
        if stage.image in names:
            continue
        if not re.fullmatch(r"[a-z0-9./_-]+:[A-Za-z0-9_.-]+@sha256:[0-9a-f]{64}", stage.image):
            problem(f"{DOCKERFILE}:{stage.line}: FROM {stage.image}: a base image needs a tag that says its version, and a digest")
        elif re.search(r":(latest|edge|stable)@", stage.image):
            problem(f"{DOCKERFILE}:{stage.line}: FROM {stage.image}: the tag must say the version")
    workspace = tomllib.loads((root / "Cargo.toml").read_text())
    wanted = workspace["workspace"]["package"]["rust-version"]
    builder = next((stage for stage in found if stage.name == "build"), None)
    if builder is None:
        problem(f"{DOCKERFILE}: no stage called build")
    else:
        rust = re.match(r"(?:docker\.io/library/)?rust:([0-9]+\.[0-9]+)", builder.image)
        if not rust or rust[1] != wanted:
            problem(f"{DOCKERFILE}:{builder.line}: FROM {builder.image}: the workspace is built with Rust {wanted}")
        commands = " ".join(value for _, value in builder.all("RUN"))
        if "cargo build" not in commands or "--locked" not in commands:
            problem(f"{DOCKERFILE}:{builder.line}: the build stage must run cargo build --locked")
        profile = re.search(r"--profile (\S+)", commands)
        if profile and profile[1] not in workspace.get("profile", {}):
            problem(f"{DOCKERFILE}:{builder.line}: Cargo.toml has no profile {profile[1]}")
        for image in IMAGES:
            if f"--bin {image}" not in commands:
                problem(f"{DOCKERFILE}:{builder.line}: the build stage does not build {image}")
    for stage in found:
        for line, word, value in stage.instructions:
            if word == "ADD":
                problem(f"{DOCKERFILE}:{line}: ADD fetches and unpacks: use COPY")
            if word in ("ENV", "ARG"):
                for name in re.findall(r"(?:^|\s)([A-Za-z_][A-Za-z0-9_]*)(?==|$|\s)", value):
                    if SECRET_NAME.search(name):
                        problem(f"{DOCKERFILE}:{line}: {word} {name}: a secret has no place in an image; mount it when the image is run")
    for image in IMAGES:
        line_of = chain(found, image)
        if not line_of:
            problem(f"{DOCKERFILE}: no stage called {image}")
            continue
        at = f"{DOCKERFILE}:{line_of[-1].line}: {image}"
        parts = [of for stage in line_of for of in stage.instructions]
        last = {word: value for _, word, value in parts}
        if last.get("USER") != USER:
            problem(f"{at}: runs as {last.get('USER', 'root')}, and must as {USER}")
        if last.get("ENTRYPOINT") != f'["/usr/local/bin/{image}"]':
            problem(f'{at}: ENTRYPOINT must be ["/usr/local/bin/{image}"], without a shell')
        if "CMD" in last:
            problem(f"{at}: no CMD: configuration comes when it is run")
        if not any(word == "RUN" and value == f'["/usr/local/bin/{image}", "--version"]' for _, word, value in parts):
            problem(f'{at}: no smoke step: RUN ["/usr/local/bin/{image}", "--version"]')
        health = last.get("HEALTHCHECK", "")
        if not (health == "NONE" and image == "loadtest") and f'CMD ["/usr/local/bin/{image}", ' not in health:
            problem(f"{at}: HEALTHCHECK must ask the binary itself, without a shell")
        labels = " ".join(value for _, word, value in parts if word == "LABEL")
        for label in LABELS:
            if f"org.opencontainers.image.{label}=" not in labels:
                problem(f"{at}: no label org.opencontainers.image.{label}")
        for line, word, value in parts:
            if word == "COPY" and "--from=build " not in value:
                problem(f"{DOCKERFILE}:{line}: {image}: COPY {value}: an image has only what the stage build has made")
    ignored = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    if not ignored or ignored[0] != "*":
        problem(".dockerignore: it must begin with * and then name what a build is given")


def secrets_in(folder: pathlib.Path, what: str, *, skip: tuple[str, ...] = ()) -> None:
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() or not path.is_file() or name.startswith(skip):
            continue
        if SECRET_FILE.search(name):
            problem(f"{what}: {name}: looks like a secret")
        elif SECRET_TEXT.search(path.read_bytes()):
            problem(f"{what}: {name}: has a private key in it")


def accounts(root: pathlib.Path, members: list[str], deps: pathlib.Path) -> list[str]:
    """What each library and binary of the workspace was made of when it was built last, in the compiler's own words."""
    found = []
    for member in members:
        manifest = tomllib.loads((root / member / "Cargo.toml").read_text())
        library = manifest["package"]["name"].replace("-", "_")
        binaries = [binary["name"].replace("-", "_") for binary in manifest.get("bin", [])]
        for crate in [library, *binaries]:
            infos = sorted(deps.glob(f"{crate}-*.d"), key=lambda info: info.stat().st_mtime)
            texts = [info.read_text() for info in infos]
            # A library's tests are built under its name, too, and need more.
            texts = [text for text in texts if crate in binaries or f"/lib{crate}-" in text]
            if not texts:
                problem(f"context: {deps} has no {crate}: build the binaries, or say by DUNLIN_BIN where they are")
            found += texts[-1:]
    return found


def context(root: pathlib.Path, folder: pathlib.Path, deps: pathlib.Path) -> None:
    """What a build is given has no secrets, nothing that the sources do not need, and every file that the binaries were made of here."""
    allowed = {"Cargo.toml", "Cargo.lock"}
    members = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["members"]
    for entry in folder.iterdir():
        if entry.name not in allowed | set(members):
            problem(f"context: {entry.name} is neither a crate of the workspace nor {' nor '.join(sorted(allowed))}")
    for name in sorted(allowed | set(members)):
        if not (folder / name).exists():
            problem(f"context: {name} is missing: .dockerignore must let it in")
    secrets_in(folder, "context")
    missing = set()
    for account in accounts(root, members, deps):
        # Its first rule names the files, as seen from the workspace.
        _, _, files = account.partition("\n")[0].replace("\\ ", "\0").partition(": ")
        for file in files.split():
            path = pathlib.Path(file.replace("\0", " "))
            # What the build itself has made is not of this tree.
            if not path.is_absolute() and (root / path).exists() and not (folder / path).exists():
                missing.add(str(path))
    for name in sorted(missing):
        problem(f"context: {name} is missing, and a binary is made of it")


def substitute(root: pathlib.Path, out: pathlib.Path) -> None:
    """The same Dockerfile, but the stage that needs a registry and crates.io is an image of this machine, and so is the base."""
    lines, skipping = [], False
    for line in (root / DOCKERFILE).read_text().splitlines():
        if line.startswith("FROM "):
            name = line.rpartition(" ")[2]
            skipping = name == "build"
            if skipping:
                line = "FROM localhost/dunlin-build:check AS build"
            elif "@sha256:" in line:
                line = f"FROM localhost/alpine:check AS {name}"
            lines.append(line)
        elif not skipping:
            lines.append(line)
    out.write_text("\n".join(lines) + "\n")


def built(image: str, inspected: pathlib.Path, folder: pathlib.Path, base: pathlib.Path) -> None:
    """The image is configured as it must be, and has nothing in it but the base, one binary and the place of the state."""
    docker = json.loads(inspected.read_text())["Docker"]["config"]
    expected = {
        "User": USER,
        "Entrypoint": [f"/usr/local/bin/{image}"],
        "WorkingDir": STATE,
        "Volumes": {STATE: {}},
        "StopSignal": "SIGTERM",
    }
    for key, value in expected.items():
        if docker.get(key) != value:
            problem(f"{image}: {key} is {docker.get(key)!r}, and must be {value!r}")
    test = (docker.get("Healthcheck") or {}).get("Test")
    wanted = ["NONE"] if image == "loadtest" else ["CMD", f"/usr/local/bin/{image}", "health", "live"]
    if test != wanted:
        problem(f"{image}: the health check is {test!r}, and must be {wanted!r}")
    for variable in docker.get("Env") or []:
        if not variable.startswith("PATH="):
            problem(f"{image}: {variable.partition('=')[0]} is set: configuration comes when it is run")
    for label, value in {"version": "0.0.0-check", "revision": "none", "created": "now"}.items():
        if (docker.get("Labels") or {}).get(f"org.opencontainers.image.{label}") != value:
            problem(f"{image}: the build argument for the label {label} does not reach it")

    def listing(root: pathlib.Path) -> set[str]:
        return {str(path.relative_to(root)) for path in root.rglob("*")}

    # /var/lib/dunlin is a volume; the rest is what the container's own set-up leaves.
    new = listing(folder) - listing(base) - {"var/lib/dunlin", f"usr/local/bin/{image}", "etc/hosts", "etc/resolv.conf", "run/.containerenv"}
    for name in sorted(new):
        problem(f"{image}: {name} is in it, and has no place there")
    secrets_in(folder, image, skip=("etc/ssl/", "etc/apk/", "usr/share/apk/"))
    state = (folder / STATE.lstrip("/")).stat()
    if (f"{state.st_uid}:{state.st_gid}", state.st_mode & 0o777) != (USER, 0o750):
        problem(f"{image}: {STATE} belongs to {state.st_uid}:{state.st_gid} with mode {state.st_mode & 0o777:o}")
    binary = (folder / f"usr/local/bin/{image}").stat()
    if binary.st_uid != 0 or binary.st_mode & 0o7022:
        problem(f"{image}: its binary can be changed by who runs it, or has more rights than that one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path())
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lint")
    command = commands.add_parser("context")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("deps", type=pathlib.Path)
    command = commands.add_parser("substitute")
    command.add_argument("out", type=pathlib.Path)
    command = commands.add_parser("built")
    command.add_argument("image")
    command.add_argument("inspected", type=pathlib.Path)
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("base", type=pathlib.Path)
    given = parser.parse_args()
    match given.command:
        case "lint":
            lint(given.root)
        case "context":
            context(given.root, given.folder, given.deps)
        case "substitute":
            substitute(given.root, given.out)
        case "built":
            built(given.image, given.inspected, given.folder, given.base)
    for text in problems:
        print(text)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
