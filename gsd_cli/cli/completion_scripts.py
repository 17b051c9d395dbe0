"""The completion scripts of bash, zsh and fish, and their installation.

Unlike Typer's scripts, they complete after `--teacher=`.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import UsageError
from gsd_cli.base.storage import storage_errors

BASH = """\
_gsd_completion() {
    local IFS=$'\\n' words=() at=$COMP_CWORD i
    # readline takes --teacher=ddpm for three words: leave the sign out
    for i in "${!COMP_WORDS[@]}"; do
        if [[ ${COMP_WORDS[i]} != = ]]; then
            words+=("${COMP_WORDS[i]}")
        elif (( i == COMP_CWORD )); then
            words+=("")
        elif (( i < COMP_CWORD )); then
            (( at -= 1 ))
        fi
    done
    COMPREPLY=( $( env COMP_WORDS="${words[*]}" COMP_CWORD=$at _GSD_COMPLETE=complete_bash $1 ) )
    return 0
}

complete -o default -F _gsd_completion gsd
"""

ZSH = """\
#compdef gsd

_gsd_completion() {
  local given="${words[1,$CURRENT]}"
  [[ $PREFIX == --*=* ]] && compset -P 1 '*='
  eval $(env _TYPER_COMPLETE_ARGS="$given" _GSD_COMPLETE=complete_zsh gsd)
}

if [[ $funcstack[1] == _gsd ]]; then
  _gsd_completion "$@"
else
  compdef _gsd_completion gsd
fi
"""
"""zsh finds the file in $fpath and runs it as the completion function. If it is sourced, it registers itself."""

FISH = """\
function _gsd_completion
    # fish replaces the whole word: what follows --teacher= comes back with it
    set -l sign (string match -r -- '^--[^=]+=' (commandline -ct))
    env _GSD_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS=(commandline -cp) gsd \\
        | string replace -r -- '^' "$sign"
end

complete --command gsd --no-files --arguments "(_gsd_completion)" --condition \\
    "env _GSD_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=is-args _TYPER_COMPLETE_ARGS=(commandline -cp) gsd"
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def detect_shell() -> str:
    """The shell that started this process: bash, zsh or fish. Raises UsageError for any other."""
    import shellingham

    try:
        name = str(shellingham.detect_shell()[0])
    except shellingham.ShellDetectionFailure:
        name = Path(os.environ.get("SHELL", "")).name
    if name not in SCRIPTS:
        shells = ", ".join(SCRIPTS)
        raise UsageError(
            [f"no completions for {name or 'an unknown shell'}; available: {shells}"],
            hint="run the command from one of these shells",
        )
    return name


def install_script(shell: str) -> list[Path]:
    """Write a shell's script to where the shell finds it at its next start; returns the files that changed.

    bash and zsh need a line in their start file: ~/.bashrc, or .zshrc in $ZDOTDIR or the home. It is added once. Raises
    GsdError (exit 8) if a file cannot be written.
    """
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "gsd"
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    if shell == "fish":
        return _write(config / "fish" / "completions" / "gsd.fish", FISH)
    if shell == "zsh":
        start = Path(os.environ.get("ZDOTDIR") or Path.home()) / ".zshrc"
        line = f"fpath=({shlex.quote(str(data))} $fpath); autoload -Uz compinit; compinit"
        return _write(data / "_gsd", ZSH) + _append_line(start, line)
    script = data / "gsd.bash"
    return _write(script, BASH) + _append_line(Path.home() / ".bashrc", f"source {shlex.quote(str(script))}")


def _write(path: Path, text: str) -> list[Path]:
    if path.is_file() and path.read_bytes() == text.encode():
        return []
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return [path]


def _append_line(path: Path, line: str) -> list[Path]:
    """Append a line to a start file. The file belongs to the user and may be a link, so it is not replaced."""
    with storage_errors(path):
        before = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
        if line in before.splitlines():
            return []
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(("" if not before or before.endswith("\n") else "\n") + line + "\n")
    return [path]
