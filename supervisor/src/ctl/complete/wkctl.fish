# Completion of wkctl for fish. What is possible comes from wkctl itself, which asks the supervisor when one runs.
function __wkctl_complete
    set -l lines (wkctl complete -- (commandline --current-process --cut-at-cursor | string collect) 2>/dev/null)
    if test "$lines[1]" = :directories
        __fish_complete_directories (commandline --current-token)
        return
    end
    printf '%s\n' $lines
end
complete --command wkctl --no-files --keep-order --arguments '(__wkctl_complete)'
