# Completion of wkctl for bash. What is possible comes from wkctl itself, which asks the supervisor when one runs.
_wkctl() {
    local candidate
    COMPREPLY=()
    while IFS= read -r candidate; do
        if [[ $candidate == :directories ]]; then
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$2")
            return
        fi
        COMPREPLY+=("$candidate")
    done < <("${1/#\~/$HOME}" complete --breaks="$COMP_WORDBREAKS" -- "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _wkctl wkctl
