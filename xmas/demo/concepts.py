"""The everyday things that are drawn, and the names of their glyphs in the icon fonts.

A thing, a colon, and the glyph names to look up: `ri:home` in that family only, a bare name in all.
The glyphs were checked visually, since fonts differ in what they call a football or a flashlight.
Names of things are single words without synonyms in the list.
"""

GLYPH_NAMES = """
house: mdi:home mdi:home-variant house house-chimney fa:home ri:home ri:home-3 ri:home-4 ei:home
  cod:home
car: car fa:car-side mdi:car-side mdi:car-hatchback ph:car-simple
heart: heart ph:heart-straight ri:heart-3
star: star
tree: tree mdi:pine-tree ph:tree-evergreen
dog: dog mdi:dog-side
cat: cat
fish: fish fish-fins fish-simple
key: key mdi:key-variant
lock: lock lock-simple ri:lock-2
bell: mdi:bell fa:bell cod:bell ei:bell ph:bell ph:bell-simple ri:notification-2
  ri:notification-3
camera: camera fa:camera-retro cod:device-camera
phone: phone
book: book
umbrella: umbrella ph:umbrella-simple
sun: sun mdi:weather-sunny mdi:white-balance-sunny
moon: moon mdi:moon-waning-crescent mdi:weather-night
cloud: cloud
flower: flower mdi:flower-tulip mdi:flower-poppy fa:spa ph:flower-lotus
leaf: leaf mdi:leaf-maple
bus: bus bus-simple mdi:bus-side ri:bus-2
truck: truck
train: train train-subway fa:subway ri:subway ph:train-simple mdi:train-variant
bicycle: bicycle
boat: mdi:sail-boat sailboat fa:ship ri:ship ph:boat
plane: mdi:airplane ph:airplane plane ph:airplane-tilt
rocket: rocket rocket-launch ri:rocket-2
anchor: anchor ph:anchor-simple
rain: mdi:weather-rainy mdi:weather-pouring fa:cloud-rain fa:cloud-showers-heavy ri:rainy
  ri:showers ph:cloud-rain
snowflake: snowflake mdi:snowflake-variant
rainbow: rainbow mdi:looks
fire: fire cod:flame ph:flame fa:fire-flame-simple
drop: mdi:water droplet fa:tint ri:drop ei:tint ph:drop
wind: mdi:weather-windy fa:wind ri:windy ph:wind
lightning: mdi:flash mdi:lightning-bolt fa:bolt cod:zap ri:flashlight ph:lightning
globe: mdi:earth fa:globe ri:earth ri:global cod:globe ei:globe ph:globe
  ph:globe-hemisphere-west ph:globe-stand fa:earth-americas
bird: bird fa:dove fa:crow fa:kiwi-bird
horse: horse mdi:horse-variant horse-head
bug: bug ri:bug-2 ph:bug-beetle mdi:ladybug
paw: paw paw-print
hand: hand mdi:hand-back-right fa:hand-paper ph:hand-palm
eye: eye ei:eye-open
brain: brain
person: mdi:account fa:user ri:user cod:person ei:user ph:user
baby: baby mdi:baby-face
ghost: ghost
robot: robot
face: mdi:emoticon-happy mdi:emoticon fa:face-smile fa:smile ri:emotion cod:smiley ei:smiley
  ph:smiley
crown: crown ri:vip-crown ri:vip-crown-2 ph:crown-simple
shirt: mdi:tshirt-crew mdi:tshirt-v fa:shirt fa:tshirt ri:t-shirt ri:t-shirt-2 cod:jersey
  ph:t-shirt
watch: mdi:watch mdi:watch-variant ph:watch
bag: mdi:shopping fa:bag-shopping fa:shopping-bag ri:shopping-bag ri:shopping-bag-2
  ri:shopping-bag-3 ph:shopping-bag ph:shopping-bag-open
wallet: wallet ri:wallet-2 ri:wallet-3
door: door fa:door-closed fa:door-open ri:door-open
bed: bed mdi:bed-king ri:hotel-bed
lamp: lamp mdi:floor-lamp
bulb: lightbulb ei:bulb
clock: mdi:clock fa:clock ri:time ei:time ph:clock
hourglass: mdi:timer-sand hourglass
calendar: calendar
laptop: laptop ri:macbook
keyboard: keyboard
mouse: mdi:mouse fa:computer-mouse ri:mouse ph:mouse ph:mouse-simple
printer: printer print
monitor: mdi:monitor fa:desktop fa:display ri:computer cod:device-desktop ph:monitor ph:desktop
radio: mdi:radio radio
headset: headphones headphone
microphone: microphone mic
speaker: mdi:volume-high fa:volume-high fa:volume-up ri:volume-up ei:volume-up ph:speaker-high
  ph:speaker-simple-high
note: mdi:music-note mdi:music ri:music ri:music-2 fa:music ei:music cod:music ph:music-note
  ph:music-notes
film: mdi:filmstrip film ph:film-strip
newspaper: newspaper
map: map map-trifold
folder: folder
clipboard: clipboard
envelope: mdi:email envelope ri:mail cod:mail ph:envelope-simple
bookmark: bookmark bookmark-simple
tag: tag price-tag ri:price-tag-3 ph:tag-simple
ticket: ticket fa:ticket-simple fa:ticket-alt ri:ticket-2 ri:coupon
pencil: pencil mdi:lead-pencil ph:pencil-simple
pen: pen-nib mdi:fountain-pen-tip ph:pen-nib-straight
eraser: eraser
ruler: ruler
brush: mdi:brush fa:paintbrush fa:paint-brush ri:brush ei:brush ph:paint-brush
palette: palette
paperclip: paperclip paper-clip mdi:attachment ri:attachment ph:paperclip-horizontal
pin: mdi:pin fa:thumbtack ri:pushpin ri:pushpin-2 cod:pinned ph:push-pin ph:push-pin-simple
link: mdi:link-variant mdi:link fa:link ri:links cod:link ei:link ph:link ph:link-simple
scale: mdi:scale-balance fa:scale-balanced fa:balance-scale ri:scales ri:scales-3 cod:law
  ph:scales
magnet: magnet ph:magnet-straight
compass: compass
target: mdi:bullseye fa:bullseye cod:target ph:target
wrench: wrench
gear: mdi:cog gear fa:cog ei:cog ri:settings-5 ph:gear-six cod:settings-gear
magnifier: mdi:magnify fa:magnifying-glass fa:search ri:search cod:search ei:search
  ph:magnifying-glass
lifebuoy: lifebuoy life-ring
flag: flag
megaphone: mdi:bullhorn fa:bullhorn cod:megaphone ei:bullhorn ph:megaphone ph:megaphone-simple
gift: gift
trophy: trophy
medal: medal
puzzle: mdi:puzzle puzzle-piece ei:puzzle
dice: mdi:dice-5 dice-five
cube: cube
flask: flask beaker
thermometer: thermometer
pill: mdi:pill ri:capsule ph:pill fa:capsules
bandage: bandage fa:band-aid ph:bandaids
mask: mdi:face-mask fa:mask-face ri:surgical-mask ph:face-mask
wheelchair: wheelchair
cart: mdi:cart fa:cart-shopping shopping-cart ri:shopping-cart-2 ph:shopping-cart-simple
shop: mdi:store mdi:storefront fa:store fa:shop ri:store-2 ri:store-3 ph:storefront
bank: bank fa:building-columns fa:university
factory: factory fa:industry
cup: mdi:coffee fa:mug-hot fa:coffee fa:mug-saucer ri:cup cod:coffee ph:coffee
wine: mdi:glass-wine fa:wine-glass fa:wine-glass-alt ph:wine
cocktail: mdi:glass-cocktail fa:martini-glass fa:martini-glass-empty fa:glass-martini ri:goblet
  ei:glass ph:martini
pizza: pizza pizza-slice
cake: mdi:cake mdi:cake-variant fa:cake-candles fa:birthday-cake ri:cake ri:cake-2 ph:cake
cookie: cookie cookie-bite
pot: mdi:pot mdi:pot-steam mdi:pot-mix ph:cooking-pot
cutlery: mdi:silverware-fork-knife fa:utensils ri:restaurant ph:fork-knife
knife: knife
sword: sword
shield: shield
funnel: mdi:filter fa:filter ri:filter cod:filter ei:filter ph:funnel
bin: mdi:delete mdi:trash-can fa:trash fa:trash-can ri:delete-bin ri:delete-bin-6 cod:trash
  ei:trash ph:trash ph:trash-simple
battery: mdi:battery fa:battery-full fa:battery-half ri:battery ph:battery-full ph:battery-high
gamepad: mdi:controller-classic mdi:gamepad-variant mdi:controller fa:gamepad ri:gamepad
  ph:game-controller
ball: mdi:soccer fa:futbol ri:football ph:soccer-ball
basketball: basketball fa:basketball-ball
baseball: baseball fa:baseball-ball
football: mdi:football fa:football fa:football-ball ph:football
volleyball: volleyball fa:volleyball-ball
dumbbell: dumbbell barbell
shower: mdi:shower-head fa:shower ph:shower
circle: mdi:circle fa:circle ri:checkbox-blank-circle cod:circle-filled cod:circle-large
  ph:circle
square: mdi:square fa:square ri:checkbox-blank ph:square
triangle: mdi:triangle ph:triangle
hexagon: mdi:hexagon ph:hexagon
cross: mdi:close fa:xmark fa:times ri:close cod:close ei:remove ph:x
plus: plus ri:add
check: mdi:check fa:check ri:check cod:check ei:ok ph:check
arrow: mdi:arrow-right fa:arrow-right ri:arrow-right cod:arrow-right ei:arrow-right
  ph:arrow-right
clover: mdi:clover mdi:cards-club fa:clover ph:club
spade: mdi:cards-spade ph:spade
diamond: mdi:cards-diamond fa:diamond ph:diamond mdi:rhombus
handshake: handshake
thumb: mdi:thumb-up fa:thumbs-up ri:thumb-up cod:thumbsup ei:thumbs-up ph:thumbs-up
fingerprint: fingerprint
calculator: calculator
cap: mdi:school fa:graduation-cap cod:mortar-board ph:graduation-cap
banknote: mdi:cash fa:money-bill fa:money-bill-alt ph:money
bubble: mdi:chat mdi:message fa:comment ri:chat-3 ri:chat-1 cod:comment ei:comment ph:chat
  ph:chat-circle ph:chat-teardrop
floppy: mdi:content-save fa:floppy-disk fa:save ri:save cod:save ph:floppy-disk
wifi: wifi ph:wifi-high
wand: mdi:auto-fix mdi:magic-staff fa:wand-magic fa:magic cod:wand ei:magic ph:magic-wand
wave: mdi:waves fa:water ph:waves
bucket: mdi:format-color-fill fa:fill-drip ph:paint-bucket ri:paint
alarm: alarm
chart: mdi:chart-bar fa:chart-simple ri:bar-chart cod:graph ph:chart-bar
infinity: infinity
asterisk: asterisk
hash: mdi:pound fa:hashtag ph:hash
percent: percent
peace: mdi:peace fa:peace ph:peace
barcode: barcode
photo: mdi:image fa:image ri:image ei:picture ph:image
box: mdi:package-variant-closed fa:box cod:package ph:package
pump: gas-pump mdi:gas-station ri:gas-station
atom: atom
dropper: mdi:eyedropper mdi:eyedropper-variant fa:eye-dropper ph:eyedropper
roller: mdi:format-paint fa:paint-roller ph:paint-roller
stopwatch: mdi:timer fa:stopwatch ri:timer ph:timer
receipt: receipt ri:bill
ear: mdi:ear-hearing fa:ear-listen fa:assistive-listening-systems ph:ear
tube: test-tube fa:vial
file: file
office: mdi:office-building fa:building ri:building ri:building-2 ph:buildings
camcorder: mdi:video fa:video ri:vidicon ei:facetime-video cod:device-camera-video
  ph:video-camera
database: mdi:database fa:database cod:database ph:database
badge: mdi:card-account-details fa:id-card fa:id-badge ph:identification-card
  ph:identification-badge
tray: mdi:inbox fa:inbox ri:inbox cod:inbox ph:tray
switch: mdi:toggle-switch fa:toggle-on ri:toggle ph:toggle-right
list: mdi:format-list-bulleted fa:list fa:list-ul cod:list-unordered ei:list ph:list-bullets
chip: mdi:chip mdi:cpu-64-bit fa:microchip ri:cpu cod:chip ph:cpu
gauge: mdi:gauge mdi:speedometer fa:gauge fa:gauge-high fa:tachometer-alt ri:dashboard-3
  cod:dashboard ei:dashboard ph:gauge
cursor: mdi:cursor-default fa:arrow-pointer fa:mouse-pointer ri:cursor ph:cursor
window: mdi:application fa:window-maximize ri:window ri:window-2 cod:window cod:browser
  ph:browser ph:app-window
pie: mdi:chart-pie fa:chart-pie ri:pie-chart cod:pie-chart ph:chart-pie ph:chart-pie-slice
card: mdi:credit-card credit-card ri:bank-card
disc: disc mdi:album ri:album fa:compact-disc
"""
