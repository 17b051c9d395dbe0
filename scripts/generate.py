"""Write everything that follows from the option models: python -m scripts.generate

flags.json for a fast start, completions for three shells, man pages, the reference.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gsd_cli.flags import STORE, describe, dump, models
from gsd_cli.versions import gsd_version
from scripts import manpages, reference

ROOT = Path(__file__).parents[1]
REGISTER = "compdef _gsd_completion gsd"
AUTOLOADED = f"""if [[ $funcstack[1] == _gsd ]]; then
  _gsd_completion "$@"
else
  {REGISTER}
fi"""
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

FISH = """\
function _gsd_completion
    # fish replaces the whole word: what follows --teacher= comes back with it
    set -l sign (string match -r -- '^--[^=]+=' (commandline -ct))
    env _GSD_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS=(commandline -cp) gsd \\
        | string replace -r -- '^' "$sign"
end

complete --command gsd --no-files --arguments "(_gsd_completion)" --condition "env _GSD_COMPLETE=complete_fish \
_TYPER_COMPLETE_FISH_ACTION=is-args _TYPER_COMPLETE_ARGS=(commandline -cp) gsd"
"""


def zsh() -> str:
    """typer's script as a file that zsh finds in $fpath, where the file itself is the function that completes."""
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="gsd", complete_var="_GSD_COMPLETE", shell="zsh").strip()
    asked = '  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}"'
    # what follows --teacher= is completed alone
    aside = "  local given=\"${words[1,$CURRENT]}\"\n  [[ $PREFIX == --*=* ]] && compset -P 1 '*='\n"
    script = script.replace(asked, aside + '  eval $(env _TYPER_COMPLETE_ARGS="$given"')
    return script.replace(REGISTER, AUTOLOADED) + "\n"


def files() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    commands = {name: describe(name, model) for name, model in models().items()}
    found = {STORE: dump(commands)}
    found |= {
        ROOT / "completions" / name: text for name, text in (("gsd.bash", BASH), ("_gsd", zsh()), ("gsd.fish", FISH))
    }
    found[ROOT / "man" / "gsd.1"] = manpages.overview(commands, gsd_version())
    found[ROOT / "docs" / "reference" / "index.md"] = reference.overview(commands)
    for name, command in commands.items():
        found[ROOT / "man" / f"gsd-{name}.1"] = manpages.page(command, gsd_version())
        found[ROOT / "docs" / "reference" / f"gsd-{name}.md"] = reference.page(command)
    return found


def main() -> int:
    """Write what differs, and name it; with --check, only name it and fail."""
    stale = {p: text for p, text in files().items() if not p.exists() or p.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
