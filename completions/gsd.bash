_gsd_completion() {
    local IFS=$'\n' words=() at=$COMP_CWORD i
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
