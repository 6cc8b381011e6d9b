// Shows findings as they come and, on a terminal, the check now running.
import { toJson } from '../cli/text.ts'
import type { Check, Finding } from './check.ts'
import { lines, skippedLine, summary, WIDTH } from './report.ts'

/** Fewer columns would leave no room beside the names of the checks. */
const NARROWEST = 60

/** Writes the report to stdout and the progress to stderr. */
export class Screen {
  private readonly json: boolean
  private readonly live = process.stderr.isTTY === true
  private readonly width = process.stdout.isTTY ? Math.max(NARROWEST, Math.min(WIDTH, process.stdout.columns)) : WIDTH
  private cache: string | undefined | null = null
  private waiting: Finding[] = []
  private silent = false

  constructor(json: boolean) {
    this.json = json
  }

  starts({ name, cache }: Check): void {
    if (this.live) process.stderr.write(`\r\u001b[K… ${cache === undefined ? '' : `${cache}: `}${name}`)
  }

  /** Shows nothing from now on: a failure of an interrupted check means nothing. */
  silence(): void {
    this.clear()
    this.silent = true
  }

  ended(finding: Finding): void {
    this.clear()
    if (this.json || this.silent) return
    if (this.cache === null || finding.cache !== this.cache) {
      this.flush()
      process.stdout.write(`${this.cache === null ? '' : '\n'}${finding.cache ?? 'this machine'}:\n`)
      this.cache = finding.cache
    }
    if (finding.state === 'skipped') this.waiting.push(finding)
    else {
      this.flush()
      process.stdout.write(lines(finding, this.width))
    }
  }

  /** The last line, or the whole report as JSON. */
  conclude(findings: readonly Finding[]): void {
    this.clear()
    if (this.silent) return
    if (this.json) process.stdout.write(`${toJson(findings, 2)}\n`)
    else {
      this.flush()
      process.stdout.write(`\n${summary(findings)}`)
    }
  }

  clear(): void {
    if (this.live) process.stderr.write('\r\u001b[K')
  }

  private flush(): void {
    if (this.waiting.length > 0) process.stdout.write(skippedLine(this.waiting, this.width))
    this.waiting = []
  }
}
