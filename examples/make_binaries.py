"""Write the PDF, DOCX and XLSX documents of the corpus, byte for byte the same on every run.

The results are committed, so nobody has to run this to use the examples. To change a binary document,
change its text here and run `python examples/make_binaries.py` (needs `reportlab` and `xlsxwriter`).

DOCX is written with the standard library alone: a handful of WordprocessingML parts in a zip with fixed dates
(ECMA-376 part 1, clause 17). The Japanese PDF uses the CID font HeiseiMin-W3, whose character map "
"readers know
(Adobe-Japan1), so that its text can be selected and extracted although no font file is embedded.
"""

import zipfile
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from xml.sax.saxutils import escape

CORPUS = Path(__file__).parent / "corpus"
AUTHOR = "Tarnfell Instruments"
MADE_ON = datetime(2025, 5, 1, 9, 0, 0)

Table = Sequence[Sequence[str]]
#: A document as blocks: ("h1" | "h2" | "p" | "li", text) or ("table", rows with the header first).
Block = tuple[str, str | Table]

DATASHEET: list[Block] = [
    ("h1", "FS-2 revision B: data sheet"),
    (
        "p",
        "Document TF-DS-0214, issue 4, May 2025. Valid for stations with serial numbers from TB-10001. "
        "Revision A has its own data sheet, TF-DS-0107, which is no longer updated.",
    ),
    ("h2", "Measured quantities"),
    (
        "table",
        [
            ["Quantity", "Range", "Resolution", "Accuracy"],
            ["Air temperature", "-35 to +55 °C", "0.1 °C", "±0.3 °C from -10 to +40 °C, otherwise ±0.5 °C"],
            ["Relative humidity", "0 to 100 %", "1 %", "±3 %"],
            ["Pressure", "540 to 1100 hPa", "0.1 hPa", "±0.5 hPa"],
            ["Wind speed", "0 to 50 m/s", "0.1 m/s", "±0.3 m/s or 3 %, whichever is larger"],
            ["Wind direction", "0 to 359°", "1°", "±3° above 1 m/s"],
            ["Rain", "0 to 300 mm/h", "0.2 mm", "±3 % up to 50 mm/h, ±6 % above"],
            ["Light", "0 to 120,000 lux", "100 lux", "±10 %"],
        ],
    ),
    ("h2", "Sampling"),
    (
        "p",
        "Wind is sampled four times a second and averaged over the reporting interval; a gust is the "
        "largest mean over three seconds. Temperature, humidity and pressure are sampled every ten "
        "seconds. The time constant of the temperature sensor in its shield is 90 seconds at 2 m/s.",
    ),
    ("h2", "Power"),
    (
        "p",
        "Solar panel 1.2 W, LiFePO4 pack 3.2 V 1,800 mAh. Mean consumption 4.6 mW at an interval of "
        "120 seconds. About 45 days of operation without sun from a full pack. The heater takes 4 W "
        "from an external 12 V supply (PS-12H); the cable may be 30 m long at most with 0.75 mm² "
        "copper.",
    ),
    ("h2", "Mechanics and environment"),
    (
        "table",
        [
            ["Property", "Value"],
            ["Mass without clamp", "1.35 kg"],
            ["Height and diameter", "412 mm, 218 mm"],
            ["Mast diameter", "28 to 50 mm"],
            ["Protection", "IP66 for the electronics, IP24 for the rain gauge"],
            ["Highest wind, tested", "50 m/s for ten minutes"],
            ["Material", "UV-stable ASA, stainless steel A4"],
        ],
    ),
    ("h2", "Order numbers"),
    (
        "p",
        "FS2B-EU for 868 MHz, FS2B-US for 915 MHz, FS2B-JP and FS2B-KR for the 920 MHz bands of Japan "
        "and Korea. Variants differ in the radio only. The region cannot be changed after manufacture.",
    ),
    ("h2", "Conformity"),
    (
        "p",
        "EN 300 220-2, EN 301 489-3, EN IEC 62368-1, RoHS. Interference class B. The station does not "
        "meet the requirements for aerodrome observations and must not be used for them.",
    ),
]

JAPANESE_SAFETY: list[Block] = [
    ("h1", "安全上のご注意"),
    (
        "p",
        "このたびはターンフェル観測ステーション FS-2 をお買い上げいただき、ありがとうございます。"
        "取り付けの前に必ずお読みください。文書番号 TF-SI-0031、2025年5月。",
    ),
    ("h2", "警告（死亡や大けがのおそれがあります）"),
    ("li", "雷の音が聞こえたら、ただちに作業をやめて建物に入ってください。最後の雷鳴から30分は近づかないでください。"),
    ("li", "電線から5m以上離れた場所に設置してください。ポールが倒れても電線に届かないことが条件です。"),
    ("li", "高さ2m以上での作業は二人で行い、墜落制止用器具とヘルメットを着用してください。"),
    ("li", "12V電源 PS-12H は屋内用です。雨のかかる場所では防水箱に入れ、漏電遮断器のある回路につないでください。"),
    ("h2", "注意（けがや物の損害のおそれがあります）"),
    ("li", "リビジョンAの電池に充電式のRCR123Aを使わないでください。発熱や故障の原因になります。"),
    (
        "li",
        "電池を火の中に入れたり、ショートさせたりしないでください。廃棄するときは両端にテープを貼り、"
        "お住まいの自治体の決まりに従ってください。",
    ),
    ("li", "ふくらんだリン酸鉄リチウム電池は充電せず、名古屋のサービスセンターにご連絡ください。"),
    ("li", "小さな部品があります。3歳未満のお子様の手の届かないところに保管してください。"),
    ("li", "太陽電池パネルの縁は鋭くなっています。手袋をして扱ってください。"),
    ("h2", "地震と強風のあとの点検"),
    (
        "p",
        "震度5弱以上の地震、または最大瞬間風速35m/s以上の風のあとは、"
        "ポールの根元とクランプに割れがないか、ボルトが6N·mで締まっているかを確かめてください。"
        "割れたクランプは必ず交換してください。",
    ),
    ("h2", "お問い合わせ"),
    (
        "table",
        [
            ["窓口", "受付時間"],
            ["電話（名古屋サービスセンター）", "平日 9時から17時まで"],
            ["アプリの「ヘルプ」", "24時間（回答は翌営業日）"],
        ],
    ),
]

CHECKLIST: list[Block] = [
    ("h1", "Field service checklist for FS-2 installations"),
    (
        "p",
        "For service partners. One sheet per station and visit. Attach three photographs: the whole "
        "mast, the head from the north, and the open rain gauge.",
    ),
    ("h2", "Before you drive out"),
    ("li", "Read the status codes of the last 30 days in the partner view."),
    ("li", "Note the serial number. TA needs two CR123A cells and a micro-USB cable; TB needs a USB-C cable."),
    ("li", "Pack a spare clamp, an O-ring FS2A-ORING, a bucket FS2-BUCKET and a sensor cartridge FS2-THC."),
    ("li", "Ask for the pairing card. Without the join code you cannot pair again on site."),
    ("h2", "On the mast"),
    (
        "table",
        [
            ["Step", "Measure", "Limit"],
            ["1", "Tilt of the head", "2° at most"],
            ["2", "Torque of both clamp bolts", "6 N·m, never above 8 N·m"],
            ["3", "Deviation of the N mark from true north", "3° at most"],
            ["4", "Battery voltage under load, TA", "2.85 V or more"],
            ["5", "Pack voltage under load, TB", "3.20 V or more"],
            ["6", "Heater current, TB with PS-12H", "0.30 to 0.36 A"],
            ["7", "Tips for 400 ml", "97 to 103"],
            ["8", "Signal after closing everything", "two bars or more"],
        ],
    ),
    ("h2", "Reading the sensors"),
    (
        "p",
        "Hang the reference thermometer in the same air for fifteen minutes, in the shade. A "
        "difference of more than 0.5 °C is a finding; do not enter an offset on your own, note it on "
        "the sheet. For humidity take the salt bag along: 75 % after eight hours means leaving it "
        "there overnight.",
    ),
    ("h2", "Before you leave"),
    ("li", "Discard the test tips in the app, or the owner has 20 mm of rain that nobody saw."),
    ("li", "Wait for two complete reporting intervals and compare all values with what you feel."),
    ("li", "Show the owner where the codes appear and which rule reports a silent station."),
    (
        "p",
        "Return the sheet within five working days. Visits under warranty are paid at the flat rate of "
        "85 euros, those to islands by agreement.",
    ),
]

KOREAN_GREENHOUSE: list[Block] = [
    ("h1", "비닐하우스와 스마트팜에서 쓰기"),
    (
        "p",
        "FS-2는 노지용으로 설계되었지만 하우스 안팎의 차이를 보려는 농가에서도 많이 씁니다. 진주의 "
        "딸기 농가와 성주의 참외 농가에서 얻은 경험을 정리했습니다.",
    ),
    ("h2", "하우스 안에 달 때"),
    ("li", "작물 높이에 맞추되 점적 호스의 물이 튀지 않는 곳에 답니다."),
    ("li", "습도가 100%에 오래 머물면 여섯 시간 뒤 E-33이 기록됩니다. 고장이 아니라 결로일 때가 많습니다."),
    ("li", "리비전 B의 태양광 패널은 비닐을 거치면 발전량이 절반쯤으로 떨어집니다. 겨울에는 USB-C로 보충하세요."),
    ("li", "강수량과 바람은 앱에서 꺼 두면 그래프가 깔끔합니다."),
    ("h2", "전파"),
    (
        "p",
        "젖은 비닐과 철골은 전파를 막습니다. 하우스 네 동을 지나면 트인 들판의 1.1km가 150m 안팎으로 "
        "줄어듭니다. 허브를 관리동 처마 밑, 지붕보다 높은 곳에 두세요. 실외라면 방수 등급 IP65인 "
        "HB-20이 알맞습니다.",
    ),
    ("h2", "환기와 보온 제어"),
    (
        "p",
        "스테이션 값으로 개폐기를 직접 움직이지는 마세요. 전송 간격이 120초라 한낮에는 늦습니다. "
        "제어는 하우스 컨트롤러에 맡기고, FS-2는 감시와 기록에 쓰는 것이 안전합니다.",
    ),
    (
        "table",
        [
            ["작물", "알림 조건", "기준"],
            ["딸기", "야간 저온", "5℃ 미만 10분"],
            ["딸기", "주간 고온", "28℃ 초과 10분"],
            ["참외", "야간 저온", "12℃ 미만 10분"],
            ["참외", "주간 고온", "35℃ 초과 10분"],
        ],
    ),
    ("h2", "농약과 유황"),
    (
        "p",
        "유황 훈증을 하는 날에는 센서 카트리지를 빼거나 봉지로 덮어 두세요. 유황은 습도 센서를 몇 주 "
        "만에 망가뜨리며 보증을 받을 수 없습니다. 카트리지 FS2-THC는 공구 없이 바꿀 수 있습니다.",
    ),
]

SPARE_PARTS: dict[str, Table] = {
    "Station parts": [
        ["Part number", "Description", "Fits", "Price EUR", "Remarks"],
        ["FS2-THC", "Sensor cartridge, temperature and humidity", "A and B", "49", "replace every three years"],
        ["FS2-BUCKET", "Tipping bucket with magnet", "A and B", "14", "two clicks when fitted correctly"],
        ["FS2-FUNNEL", "Rain funnel 200 cm² with sieve", "A and B", "22", "quarter turn to lock"],
        ["FS2-CLAMP", "Mast clamp 28 to 50 mm with bolts M6", "A and B", "18", "tighten to 6 N·m"],
        ["FS2-RED", "Reducer ring for masts of 20 to 27 mm", "A and B", "7", ""],
        ["FS2A-ORING", "O-ring for the battery lid", "A only", "3", "pack of two"],
        ["FS2A-CUP", "Cup wheel with bearing", "A only", "29", "wear part"],
        ["FS2B-BAT", "LiFePO4 pack 3.2 V 1,800 mAh", "B only", "36", "two Torx T10 screws"],
        ["FS2B-SPIKE", "Bird spike ring", "B only", "12", ""],
        ["FS2B-HEAD", "Ultrasonic wind head", "B only", "149", "warranty 36 months"],
    ],
    "Hub parts and supplies": [
        ["Part number", "Description", "Fits", "Price EUR", "Remarks"],
        ["PS-12H", "Supply 12 V 1 A for the heater", "FS-2 revision B", "27", "cable 30 m at most"],
        ["PS-5C", "Supply USB-C 5 V 1 A", "HB-10", "11", ""],
        ["ANT-868-3", "Outdoor antenna 3 dBi", "HB-20-EU", "39", "only antenna allowed in Europe"],
        ["ANT-915-5", "Outdoor antenna 5 dBi", "HB-20-US", "42", ""],
        ["HB20-MNT", "Wall and mast mount", "HB-20", "24", "stainless steel"],
    ],
}


def write_pdf(path: Path, title: str, blocks: Iterable[Block], font: str, bold: str) -> None:
    """Set the blocks in A4; `font` and `bold` are names that reportlab knows."""
    from reportlab.lib import colors
    from reportlab.lib.enums import TA_LEFT
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.platypus import Paragraph, SimpleDocTemplate
    from reportlab.platypus import Table as PdfTable

    cjk = font.startswith("Heisei")
    for name in {font, bold} if cjk else ():
        pdfmetrics.registerFont(UnicodeCIDFont(name))

    def style(name: str, size: float, face: str, before: float) -> ParagraphStyle:
        return ParagraphStyle(
            name,
            fontName=face,
            fontSize=size,
            leading=size * 1.45,
            spaceBefore=before,
            spaceAfter=4,
            alignment=TA_LEFT,
            wordWrap="CJK" if cjk else None,
        )

    styles = {
        "h1": style("h1", 18, bold, 0),
        "h2": style("h2", 12.5, bold, 10),
        "p": style("p", 10, font, 0),
        "li": style("li", 10, font, 0),
        "cell": style("cell", 9, font, 0),
    }
    story: list[object] = []
    for kind, body in blocks:
        if isinstance(body, str):
            story.append(Paragraph(("• " if kind == "li" else "") + escape(body), styles[kind]))
        else:
            rows = [[Paragraph(escape(cell), styles["cell"]) for cell in row] for row in body]
            story.append(PdfTable(rows, hAlign="LEFT", style=[("GRID", (0, 0), (-1, -1), 0.4, colors.grey)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleDocTemplate(str(path), pagesize=A4, title=title, author=AUTHOR, invariant=1).build(story)


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
STYLE_OF = {"h1": "Heading1", "h2": "Heading2", "p": "Normal", "li": "ListBullet"}


def render_paragraph(text: str, style: str = "Normal") -> str:
    """One `w:p` in the named style."""
    return (
        f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr>'
        f'<w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p>'
    )


def render_table(rows: Table) -> str:
    """One `w:tbl`, the first row marked as header."""
    grid = "".join('<w:gridCol w:w="3000"/>' for _ in rows[0])
    out = [f'<w:tbl><w:tblPr><w:tblW w:w="0" w:type="auto"/></w:tblPr><w:tblGrid>{grid}</w:tblGrid>']
    for number, row in enumerate(rows):
        header = "<w:trPr><w:tblHeader/></w:trPr>" if number == 0 else ""
        width = '<w:tcPr><w:tcW w:w="3000" w:type="dxa"/></w:tcPr>'
        cells = "".join(f"<w:tc>{width}{render_paragraph(cell)}</w:tc>" for cell in row)
        out.append(f"<w:tr>{header}{cells}</w:tr>")
    return "".join(out) + "</w:tbl>"


def write_docx(path: Path, title: str, blocks: Iterable[Block], language: str) -> None:
    """Write the blocks as a DOCX with real heading, list and table markup."""
    body = "".join(
        render_paragraph(content, STYLE_OF[kind]) if isinstance(content, str) else render_table(content) + "<w:p/>"
        for kind, content in blocks
    )
    made = MADE_ON.isoformat() + "Z"
    names = [
        ("Normal", "Normal", ""),
        ("Heading1", "heading 1", '<w:pPr><w:outlineLvl w:val="0"/></w:pPr>'),
        ("Heading2", "heading 2", '<w:pPr><w:outlineLvl w:val="1"/></w:pPr>'),
        ("ListBullet", "List Bullet", '<w:pPr><w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr></w:pPr>'),
    ]
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="{key}"{default}><w:name w:val="{name}"/>{extra}</w:style>'
        for (key, name, extra), default in zip(names, (' w:default="1"', "", "", ""), strict=True)
    )
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{kind}.document.main+xml"/>'
        f'<Override PartName="/word/styles.xml" ContentType="{kind}.styles+xml"/>'
        f'<Override PartName="/word/numbering.xml" ContentType="{kind}.numbering+xml"/>'
        '<Override PartName="/docProps/core.xml" '
        'ContentType="application/vnd.openxmlformats-package.core-properties+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
        f'<Relationship Id="r1" Type="{OFFICE}/officeDocument" Target="word/document.xml"/>'
        f'<Relationship Id="r2" Type="{PACKAGE}/relationships/metadata/core-properties" '
        'Target="docProps/core.xml"/></Relationships>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
        f'<Relationship Id="r1" Type="{OFFICE}/styles" Target="styles.xml"/>'
        f'<Relationship Id="r2" Type="{OFFICE}/numbering" Target="numbering.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{WORD}"><w:body>{body}<w:sectPr/></w:body></w:document>',
        "word/styles.xml": f'<w:styles xmlns:w="{WORD}">{styles}</w:styles>',
        "word/numbering.xml": f'<w:numbering xmlns:w="{WORD}"><w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0">'
        '<w:start w:val="1"/><w:numFmt w:val="bullet"/><w:lvlText w:val="•"/></w:lvl></w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num></w:numbering>',
        "docProps/core.xml": f'<cp:coreProperties xmlns:cp="{PACKAGE}/metadata/core-properties" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/" '
        f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><dc:title>{escape(title)}</dc:title>'
        f"<dc:creator>{AUTHOR}</dc:creator><dc:language>{language}</dc:language>"
        f'<dcterms:created xsi:type="dcterms:W3CDTF">{made}</dcterms:created></cp:coreProperties>',
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name, MADE_ON.timetuple()[:6]), HEAD + content, zipfile.ZIP_DEFLATED)


def write_xlsx(path: Path, title: str, sheets: dict[str, Table]) -> None:
    """Write one worksheet per table; cells that are whole numbers become numbers."""
    import xlsxwriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with xlsxwriter.Workbook(str(path)) as book:
        book.set_properties({"title": title, "author": AUTHOR, "created": MADE_ON})
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, [int(cell) if cell.isdigit() else cell for cell in row])
            sheet.set_column(0, len(rows[0]) - 1, 24)


def main() -> None:
    """Write all five binary documents into the corpus."""
    write_pdf(
        CORPUS / "reference/datasheet-fs2-rev-b.pdf",
        "FS-2 revision B data sheet",
        DATASHEET,
        "Helvetica",
        "Helvetica-Bold",
    )
    write_pdf(CORPUS / "ja/safety.pdf", "安全上のご注意", JAPANESE_SAFETY, "HeiseiMin-W3", "HeiseiKakuGo-W5")
    write_docx(CORPUS / "reference/field-service-checklist.docx", "Field service checklist", CHECKLIST, "en")
    write_docx(CORPUS / "ko/greenhouse.docx", "비닐하우스와 스마트팜에서 쓰기", KOREAN_GREENHOUSE, "ko")
    write_xlsx(CORPUS / "reference/spare-parts.xlsx", "Spare parts, May 2025", SPARE_PARTS)


if __name__ == "__main__":
    main()
