/** Takes a lock, after waiting for the process that has it. @returns releases it */
export function locked(path: string, onWait: (pid: number) => void): Promise<() => void>;
